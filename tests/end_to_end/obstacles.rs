//! Hosts that get in the way: namespaces that vanish, a `/run` without room, parameters that cannot be set, and others at
//! work at the same time.

use std::thread;

use crate::lab::{self, Lab};

const AS_BEFORE: &str = "what had been done was taken back: the host is as it was before\n";

/// A container in a namespace of somebody else's, and one in netrec's own.
const FILE: &str = "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                    [containers.app]\nnetns = '/run/theirs/app'\nnetworks = ['front']\nports = ['8080:80']\n\
                    [containers.web]\nnetworks = ['front']\nports = ['8081:80']\n";

fn prepare(lab: &Lab) {
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.host.set_sysctl(path, "1");
    }
    lab.host.sh("mkdir /run/theirs");
    theirs_comes(lab);
}

fn theirs_comes(lab: &Lab) {
    lab.host.sh("touch /run/theirs/app; unshare --net mount --bind /proc/self/ns/net /run/theirs/app");
}

/// As a container engine removes it.
fn theirs_goes(lab: &Lab) {
    lab.host.sh("umount -l /run/theirs/app; rm /run/theirs/app");
}

#[test]
fn a_namespace_that_vanishes_before_an_apply_or_after_one_is_named() {
    lab::in_lab(|lab| {
        prepare(lab);
        let gone = "container `app` (FILE:3) is to live in /run/theirs/app, where there is no network namespace: start what \
                    makes it first\n";
        let refused = || {
            let before = lab.at_rest();
            let file = lab.host.write("netrec.toml", FILE);
            let output = lab.host.netrec(&["-c", &file, "apply", "-y"]);
            assert_eq!((output.status, output.stderr), (1, format!("error: {}", gone.replace("FILE", &file))));
            assert_eq!(before.diff(&lab.at_rest()), "");
        };
        theirs_goes(lab);
        refused();
        theirs_comes(lab);
        let bare = lab.at_rest();
        lab.host.apply(FILE);
        let whole = lab.at_rest();
        theirs_goes(lab);
        refused();
        // It comes back, empty, and gets its network again.
        theirs_comes(lab);
        lab.host.apply(FILE);
        assert_eq!(whole.diff(&lab.at_rest()), "");
        // Nothing is needed of it to be rid of the rest.
        theirs_goes(lab);
        lab.host.destroy(FILE);
        assert_eq!(bare.diff(&lab.at_rest()), "");
    });
}

/// The namespace goes at each of an apply's writes.
#[cfg(feature = "fault-injection")]
#[test]
fn a_namespace_that_vanishes_during_an_apply_has_all_taken_back() {
    lab::in_lab(|lab| {
        prepare(lab);
        lab.host.apply(FILE);
        lab.host.destroy(FILE);
        let before = lab.at_rest();
        let writes = lab.host.apply(FILE).json["writes"].as_u64().expect("writes");
        let writes = usize::try_from(writes).expect("a small number");
        lab.host.destroy(FILE);
        let file = lab.host.write("netrec.toml", FILE);
        // Before a message names it, and when all that is in it has gone with it.
        let never = "error: create link ve-app8fa89c in host: namespace /run/theirs/app is not there: No such file or directory\n";
        let gone = "error: link ve-app8fa89c: its end in /run/theirs/app is nowhere to be found\n\
                    address 10.20.0.127/24 dev eth0 in /run/theirs/app is missing\n\
                    address fd20::88f8:cbe9:ff8f:a89d/64 dev eth0 in /run/theirs/app is missing\n\
                    route default in /run/theirs/app is missing\n\
                    route default (ipv6) in /run/theirs/app is missing\n\
                    sysctl net/ipv6/conf/eth0/accept_ra in /run/theirs/app is missing\n";
        for at in (1..=writes).step_by(writes / 6) {
            let netrec = lab.host.netrec_paused(&[at], &["-c", &file, "apply", "-y"]);
            theirs_goes(lab);
            netrec.go_on();
            let output = netrec.end();
            let said = if at == 1 { never } else { gone };
            assert_eq!((output.status, output.stderr), (4, format!("{said}{AS_BEFORE}")), "write {at} of {writes}");
            assert_eq!(before.diff(&lab.at_rest()), "", "write {at} of {writes}");
            theirs_comes(lab);
        }
    });
}

/// A file system for `/run/netns` and the lock, so small that it is full.
fn small(lab: &Lab, folder: &str, options: &str) {
    lab.host.sh(&format!("mkdir -p {folder}; mount -t tmpfs -o mode=755,{options} small {folder}"));
}

#[test]
fn a_run_without_room_is_enough_or_named_and_nothing_is_left() {
    lab::in_lab(|lab| {
        prepare(lab);
        let before = lab.at_rest();
        let file = lab.host.write("netrec.toml", FILE);
        let apply = || lab.host.netrec(&["-c", &file, "apply", "-y"]);
        // No block left, but inodes: names are empty files, and the lock's text is no part of it.
        small(lab, "/run/netrec", "size=4k");
        small(lab, "/run/netns", "size=4k");
        lab.host.sh("head -c 4096 /dev/zero >/run/netrec/full; head -c 4096 /dev/zero >/run/netns/full");
        let output = apply();
        assert_eq!((output.status, output.stderr.starts_with("Done in ")), (0, true), "{}", output.stderr);
        assert_eq!(lab.host.plan(FILE).actions(), [""; 0]);
        lab.host.destroy(FILE);
        lab.host.sh("umount /run/netrec; umount -l /run/netns; rmdir /run/netrec /run/netns");
        assert_eq!(before.diff(&lab.at_rest()), "");

        // No inode left for a name: one root, one file.
        small(lab, "/run/netns", "nr_inodes=2");
        lab.host.sh("touch /run/netns/full");
        let output = apply();
        assert_eq!(
            (output.status, output.stderr),
            (4, format!("error: create netns web: No space left on device\n{AS_BEFORE}"))
        );
        lab.host.sh("umount -l /run/netns; rmdir /run/netns");
        assert_eq!(before.diff(&lab.at_rest()), "");

        // Nor for the lock.
        lab.host.sh("rm -r /run/netrec");
        small(lab, "/run/netrec", "nr_inodes=2");
        lab.host.sh("touch /run/netrec/full");
        let output = apply();
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        let said =
            format!("error: cannot lock /run/netrec/lock-{}: No space left on device (os error 28)\n", inode.trim());
        assert_eq!((output.status, output.stderr), (1, said));
        lab.host.sh("umount /run/netrec; rmdir /run/netrec");
        assert_eq!(before.diff(&lab.at_rest()), "");
    });
}

/// Many at once with two files in turns: each does the whole of its file or finds it done, and the last is in force.
#[test]
fn many_with_two_files_take_turns() {
    lab::in_lab(|lab| {
        let one =
            "[networks.front]\nsubnet = '10.20.0.0/24'\n[containers.web]\nnetworks = ['front']\nports = ['8080:80']\n";
        let other = one.replace("8080:80", "8081:80").replace("front", "back").replace("10.20", "10.21");
        let texts = [one, &other].map(|text| format!("[settings]\nlock_timeout = '5m'\n{text}"));
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        for (round, n) in [2, 10, 2, 10].into_iter().enumerate() {
            let files: Vec<String> =
                (0..n).map(|i| lab.host.write(&format!("round-{round}-{i}.toml"), &texts[i % 2])).collect();
            let counts: Vec<usize> = thread::scope(|s| {
                let apply = |file: &str| {
                    let output = lab.host.netrec(&["-c", file, "apply", "-y", "--json"]);
                    assert_eq!(output.status, 0, "{file}: {}{}", output.stdout, output.stderr);
                    let json: serde_json::Value = serde_json::from_str(&output.stdout).expect("one JSON document");
                    json["actions"].as_array().expect("actions").len()
                };
                let running: Vec<_> = files.iter().map(|file| s.spawn(move || apply(file))).collect();
                running.into_iter().map(|t| t.join().expect("its end")).collect()
            });
            // The lock's file says who had it last: `process 12: netrec -c FILE apply -y --json`.
            let holder = lab.host.sh(&format!("cat /run/netrec/lock-{}", inode.trim()));
            let last = files.iter().position(|file| holder.contains(&format!(" {file} "))).expect("one of them");
            assert_eq!(lab.host.plan(&texts[last % 2]).actions(), [""; 0], "round {round}: {holder}");
            assert_ne!(lab.host.plan(&texts[(last + 1) % 2]).actions(), [""; 0], "round {round}: {holder}");
            // From nothing, from the other file or from the same: no other number of changes is there.
            let mut kinds = counts.clone();
            kinds.sort_unstable();
            kinds.dedup();
            assert!(kinds.len() <= 3, "round {round}: {counts:?}");
        }
    });
}
