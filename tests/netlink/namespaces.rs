//! Namespaces: netrec's, those of others, and the far ends of veths in them.

use std::process::Command;

use netrec::kernel::{Backend, Linux, ReadError};
use netrec::state::{Asked, Device, InterfaceName, Mac, Netns, NetnsObject, Object, Scope, Standing, State};

use super::lab::*;

#[test]
fn namespaces_are_made_as_iproute2_makes_them() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, entry) = namespace(&web());
        // What a crash between the file and the mount leaves.
        sh("mkdir -p /run/netns && touch /run/netns/web");
        assert_eq!(
            linux.live(&Scope::of(&[(key.clone(), entry.clone())].into_iter().collect())).unwrap(),
            State::new()
        );
        run(&mut linux, [create((key.clone(), entry.clone()))]);
        assert_eq!(json("ip -j netns")[0]["name"], "web");
        assert!(sh("grep ' /run/netns ' /proc/self/mountinfo").contains(" shared:"));
        let lo = ip("-n web link show lo");
        let inode = linux.host_id().1;
        assert_eq!(lo["group"], "20050");
        assert_eq!(lo["ifalias"], format!("netrec containers.web @{inode}"));
        assert_eq!(lo["operstate"], "UNKNOWN");
        let again = linux.run(&[create((key.clone(), entry.clone()))]).remove(0).unwrap_err();
        assert_eq!(again.message, "create netns web: a namespace of that name is there already: File exists");
        let mut entry = entry;
        change(&mut linux, &key, &mut entry, |e| {
            e.object = Object::Netns(NetnsObject { lo_up: false, lo_bare: false, unbound: false });
        });
        change(&mut linux, &key, &mut entry, |e| e.owners = vec![owner("containers.db")]);
        // The directory is a mount already, and is used as it is.
        let second = namespace(&Netns::new("db"));
        Linux::open().unwrap().run(&[create(second.clone())]).remove(0).unwrap();
        assert_eq!(sh("grep -c ' /run/netns ' /proc/self/mountinfo").trim(), "1");
        run(&mut linux, [delete((key, entry)), delete(second)]);
        assert_eq!(sh("ls /run/netns"), "");
        let bad = linux.run(&[create(namespace(&Netns::new("/run/elsewhere")))]).remove(0).unwrap_err();
        assert!(bad.message.contains("only namespaces under /run/netns"), "{bad}");
        sh("echo x > /run/netns/note");
        let note = linux.run(&[create(namespace(&Netns::new("note")))]).remove(0).unwrap_err();
        assert_eq!(
            note.message,
            "create netns note: /run/netns/note is somebody else's: remove it, or name the container otherwise: File exists"
        );
    });
}

#[test]
fn namespaces_of_others_are_told_apart() {
    lab(|| {
        sh("ip netns add plain && ip netns add theirs && ip netns add quiet && touch /run/hostns && \
            mount --bind /proc/self/ns/net /run/hostns && touch /run/alias && mount --bind /run/netns/plain /run/alias && \
            ip -n theirs link set lo group 20050 alias 'netrec containers.x @1'");
        let mut linux = Linux::open().unwrap();
        assert_eq!(linux.live(&Scope::default()).unwrap(), State::new());
        let scope = Scope {
            namespaces: ["plain", "theirs", "absent", "/run/hostns", "/run/alias"].map(Netns::new).into(),
            ..Scope::default()
        };
        let live = linux.live(&scope).unwrap();
        let standings: Vec<(String, Standing)> =
            live.iter().map(|(key, entry)| (key.to_string(), entry.standing.clone())).collect();
        let foreign = |text: &str| Standing::Foreign(text.into());
        assert_eq!(
            standings,
            [
                ("netns /run/alias".into(), foreign("not made by netrec")),
                ("netns /run/hostns".into(), foreign("the host's own")),
                ("netns plain".into(), foreign("the same as /run/alias")),
                ("netns theirs".into(), foreign("made by netrec for another host")),
            ]
        );
    });
}

#[test]
fn a_name_that_cannot_be_read_is_no_matter_unless_something_is_missing() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let wanted = make(&mut linux, &small_shop());
        sh("ln -s loop /run/netns/loop && mkdir /run/netns/folder && ln -s nowhere /run/netns/gone && \
            mkfifo /run/netns/pipe && echo x > /run/netns/note");
        for scope in [Scope::default(), Scope::of(&wanted)] {
            assert_eq!(linux.live(&scope).unwrap(), wanted);
        }
        // One that the file asks for is another matter.
        let looped = ReadError::Other("read namespace loop: Too many symbolic links encountered".into());
        let scope = Scope { namespaces: [Netns::new("loop")].into(), ..Scope::default() };
        assert_eq!(linux.live(&scope).unwrap_err(), looped);
        // An end that is nowhere to be found may be in it.
        let _held = std::fs::File::open("/run/netns/web").unwrap();
        sh("umount -l /run/netns/web && rm /run/netns/web");
        assert_eq!(linux.live(&Scope::default()).unwrap_err(), looped);
        sh("rm /run/netns/loop");
        assert!(linux.live(&Scope::default()).is_ok());
    });
}

#[test]
fn a_netrec_in_a_container_leaves_its_devices_alone() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        drop(linux);
        let file = std::fs::File::open("/run/netns/web").unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut inside = Linux::open().unwrap();
        let live = inside.live(&Scope { ends: [(Netns::HOST, name("eth0"))].into(), ..Scope::default() }).unwrap();
        let eth0 = live.get(&link_key("eth0")).unwrap();
        assert_eq!(eth0.standing, Standing::Foreign("made by netrec for another host".into()));
        assert!(live.iter().all(|(_, entry)| !entry.standing.is_ours()), "{live:?}");
        assert_eq!(inside.live(&Scope::default()).unwrap(), State::new());
        let facts = inside.facts(&Asked::default()).unwrap();
        assert_eq!((facts.addresses.len(), facts.routes.len()), (2, 4));
        assert_eq!(facts.uplink.unwrap().name, name("eth0"));
    });
}

#[test]
fn a_peer_whose_name_was_removed_is_found_elsewhere() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut wanted) = with_veth(&mut linux);
        let mut sleeper = Command::new("ip").args(["netns", "exec", "web", "sleep", "60"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", sleeper.id());
        let inode = |path: &str| sh(&format!("stat -Lc %i {path}"));
        while inode(&path) != inode("/run/netns/web") {}
        let held = std::fs::File::open("/run/netns/web").unwrap();
        sh(
            "touch '/run/o ther' && mount --bind /run/netns/web '/run/o ther' && umount -l /run/netns/web && rm /run/netns/web",
        );
        // A mount of another name, then a process, then nothing but an open file.
        peer_of(&mut wanted).netns = Netns::new("/run/o ther");
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        sh("umount -l '/run/o ther'");
        peer_of(&mut wanted).netns = Netns::new(path);
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let peer = peer_of(&mut wanted);
        (peer.netns, peer.name) = (Netns::new("?"), InterfaceName::UNKNOWN);
        peer.device = Device { mac: Mac([0; 6]), mtu: 0, up: false, promote_secondaries: false, ..device(0) };
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
        run(&mut linux, [delete((key.clone(), wanted))]);
        assert_eq!(found(&mut linux, &key), None);
        drop(held);
    });
}

#[test]
fn peers_with_equal_indices_are_told_by_namespace() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, entry) = with_veth(&mut linux);
        let index = ip("link show ve-web-1a2b3c")["ifindex"].clone();
        // The same pair of indices in a namespace that is read before the right one.
        sh(&format!(
            "ip netns add aaa && ip netns add bbb && ip -n bbb link add x index {index} type veth peer name eth0 index 2 netns aaa"
        ));
        assert_eq!(ip("-n aaa link show eth0")["link_index"], index);
        assert_eq!(found(&mut linux, &key).unwrap(), entry);
    });
}
