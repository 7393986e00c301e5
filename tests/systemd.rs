//! Under a real systemd: a guard outlives the login that asked for it, though the end of a login ends all that belongs to it;
//! units and machines with network namespaces of their own are containers.

#![allow(clippy::expect_used)] // a helper of the test is a test too

mod lab;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::lab::NETREC;

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/boot-systemd.sh");

const UNITS_OF_NETREC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

/// Boots a systemd and runs a script in it, with `netrec` a command. Yields what it says.
fn booted(script: &str) -> String {
    booted_with(&[], &[], script)
}

/// The same, where these files are there at boot, and these units enabled.
fn booted_with(files: &[(&str, &str)], enabled: &[&str], script: &str) -> String {
    let folder = std::env::temp_dir().join(format!("netrec-systemd-{}", std::process::id()));
    let root = folder.join("root");
    for (file, text) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("its folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let wants = root.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).expect("a folder");
    for unit in enabled {
        symlink(format!("../{unit}"), wants.join(unit)).expect("a link");
    }
    fs::create_dir_all(root.join("usr/bin")).expect("a folder");
    symlink(NETREC, root.join("usr/bin/netrec")).expect("a link");
    let path = folder.join("script");
    fs::write(&path, format!("#!/bin/sh\nset -eu\nNETREC={NETREC}\nnetrec() {{ {NETREC} \"$@\"; }}\n{script}"))
        .expect("a script");
    let output = Command::new(BOOT).arg(&path).arg("120").arg(&root).output().expect("tests/lab/boot-systemd.sh");
    fs::remove_dir_all(&folder).expect("the folder is gone");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn a_guard_outlives_its_login_and_tells_the_journal() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-nspawn", "systemd-run"]) {
        lab::kernel::not_tried("under systemd", &why);
        return;
    }
    let said = booted(&format!(
        r#"
mkdir -p /run/shop
printf '[networks.front]\nsubnet = "10.20.0.0/24"\n' >/run/shop/netrec.toml
# A unit that ends with all that belongs to it, as a login does.
systemd-run --quiet --wait --collect --unit=login -- {NETREC} -c /run/shop/netrec.toml apply -y --confirm 5s
echo "device: $(ip -br link show nr-front | cut -d' ' -f1)"
unit=$(systemctl list-units --plain --no-legend 'netrec-confirm-*' | cut -d' ' -f1)
echo "unit: $(echo "$unit" | sed 's/[0-9][0-9]*/N/')"
# Until it has ended.
while systemctl is-active --quiet "$unit"; do sleep 0.1; done
ip link show nr-front 2>&1 || true
journalctl --quiet --no-pager --output=cat _COMM=netrec | tail -n 1
netrec -c /run/shop/netrec.toml plan 2>&1 | head -n 1
"#
    ));
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "device: nr-front",
            "unit: netrec-confirm-N.service",
            "Device \"nr-front\" does not exist.",
            "netrec: /run/shop/netrec.toml was not confirmed, and was taken back",
            "/run/shop/netrec.toml was not confirmed, and was taken back",
        ]
    );
}

/// A connection by the published port of `web`, from a namespace outside, which is asked whether it still answers.
const CONNECTION: &str = r#"
mkfifo /run/shop/ask /run/shop/answer
cat >/run/shop/echo.py <<'E'
import socket
server = socket.create_server(("0.0.0.0", 80))
peer = server.accept()[0]
while data := peer.recv(100):
    peer.sendall(data)
E
cat >/run/shop/ask.py <<'E'
import socket
peer = socket.create_connection(("192.0.2.1", 8080), 20)
while True:
    open("/run/shop/ask").read()
    try:
        peer.sendall(b"x")
        alive = peer.recv(1) == b"x"
    except OSError:
        alive = False
    open("/run/shop/answer", "w").write("alive\n" if alive else "dropped\n")
E
ip netns add client
ip link add out type veth peer name in netns client
ip address add 192.0.2.1/24 dev out
ip link set out up
ip -n client address add 192.0.2.9/24 dev in
ip -n client link set in up
ip netns exec web python3 /run/shop/echo.py &
until ip netns exec web ss -ltn | grep -q :80; do sleep 0.05; done
ip netns exec client python3 /run/shop/ask.py &
connection() { echo >/run/shop/ask; cat /run/shop/answer; }
echo "before: $(connection)"
"#;

#[test]
fn the_watch_is_a_service_that_comes_back_and_leaves_the_network_as_it_is() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-nspawn", "systemd-run"]) {
        lab::kernel::not_tried("under systemd", &why);
        return;
    }
    let unit = format!("{UNITS_OF_NETREC}/netrec-watch.service");
    let said = booted(&format!(
        r#"
mkdir -p /run/shop
cat >/run/shop/netrec.toml <<'E'
[networks.front]
subnet = "10.20.0.0/24"
[containers.web]
networks = ["front"]
ports = ["8080:80"]
E
sed -e 's|/usr/bin/netrec watch|{NETREC} -c /run/shop/netrec.toml watch|' -e '/^ConditionPathExists=/d' \
    -e 's/^WatchdogSec=.*/WatchdogSec=4/' -e 's/^RestartSec=.*/RestartSec=100ms/' {unit} >/run/systemd/system/watch.service
# It is ordered after what has to have converged.
cat >/run/systemd/system/after.service <<'E'
[Unit]
Requires=watch.service
After=watch.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'ip -br link show nr-front | cut -d" " -f1 >/run/shop/after; ip netns list | cut -d" " -f1 >>/run/shop/after'
E
systemctl daemon-reload
systemctl start after.service
echo "after: $(tr '\n' ' ' </run/shop/after)"
{CONNECTION}
# 0 while there is none, which is another process's name to kill(1).
pid() {{ until p=$(systemctl show --value -p MainPID watch.service) && [ "$p" != 0 ]; do sleep 0.05; done; echo "$p"; }}
index() {{ cat /sys/class/net/nr-front/ifindex; }}
said() {{ journalctl --quiet --no-pager --output=cat -u watch.service; }}
first=$(index)
# A hand-made change of the kernel.
ip -n web route del default
until said | grep -q '^repaired route default in web'; do sleep 0.05; done
echo "fields: $(journalctl --quiet --no-pager --output=json -u watch.service | grep 'repaired route' | grep -c NETREC_CHANGES)"
systemctl show --value -p StatusText watch.service | sed "s/^$(uname -n)/HOST/"
# A reload is over when the service says so.
printf '[networks.back]\nsubnet = "10.21.0.0/24"\n' >>/run/shop/netrec.toml
systemctl reload watch.service
until [ "$(systemctl is-active watch.service)" = active ] && ip -4 -br addr show nr-back 2>/dev/null | grep -q 10.21.0.1; do sleep 0.05; done
echo "reloaded: $(systemctl is-active watch.service) $(connection)"
before=$(pid)
systemctl restart watch.service
echo "restarted: $(systemctl is-active watch.service) $([ "$(pid)" != "$before" ] && echo another) $(connection)"
before=$(pid)
kill -KILL "$before"
until [ "$(systemctl is-active watch.service)" = active ] && [ "$(pid)" != "$before" ]; do sleep 0.05; done
echo "killed: comes back $(connection)"
# Stuck: the watchdog ends it, and it comes back.
before=$(pid)
kill -STOP "$before"
until [ "$(systemctl is-active watch.service)" = active ] && [ "$(pid)" != "$before" ]; do sleep 0.1; done
echo "stuck: comes back $(connection)"
systemctl stop watch.service
echo "stopped: $(systemctl is-active watch.service) $(systemctl show --value -p Result watch.service) $([ "$(index)" = "$first" ] && echo the same bridge) $(connection)"
"#
    ));
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "after: nr-front web ",
            "before: alive",
            "fields: 1",
            "HOST matches /run/shop/netrec.toml",
            "reloaded: active alive",
            "restarted: active another alive",
            "killed: comes back alive",
            "stuck: comes back alive",
            "stopped: inactive success the same bridge alive",
        ]
    );
}

/// What is enabled at boot, and a unit that is ordered after it and one that is ordered after the network.
const AFTER: &str = "[Unit]\nAfter=UNIT\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/sh -c 'ip -br link show nr-front | cut -d\" \" -f1; ip netns exec web ip -4 -br addr show eth0'\n\
    StandardOutput=file:/run/after-UNIT\n[Install]\nWantedBy=multi-user.target\n";

fn unit(name: &str) -> String {
    fs::read_to_string(format!("{UNITS_OF_NETREC}/{name}")).expect("a unit")
}

#[test]
fn what_is_enabled_has_converged_before_what_comes_after_it() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-nspawn", "systemd-run"]) {
        lab::kernel::not_tried("under systemd", &why);
        return;
    }
    let file = "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.web]\nnetworks.front = { address = \"10.20.0.10\" }\n";
    let held = file.replace("10.20.0.10", "10.20.0.11");
    let held_json = serde_json::json!([{ "name": "/etc/netrec/netrec.toml", "text": held }]).to_string();
    let ask = "for unit in SERVICE network.target; do echo $unit: $(cat /run/after-$unit); done\n\
               systemctl is-active SERVICE\nnetrec plan 2>&1 | head -n 1 | sed \"s/$(uname -n)/HOST/\"\n\
               journalctl --quiet --no-pager --output=cat -u SERVICE | grep -c 'was taken back: ' || true\n";
    for (service, held_back) in [
        ("netrec-watch.service", false),
        ("netrec.service", false),
        ("netrec-watch.service", true),
        ("netrec.service", true),
    ] {
        let unit = unit(service);
        let (path, after) = (format!("etc/systemd/system/{service}"), AFTER.replace("UNIT", service));
        let network =
            AFTER.replace("After=UNIT", "Wants=network.target\nAfter=network.target").replace("UNIT", "network.target");
        let mut files = vec![
            (path.as_str(), unit.as_str()),
            ("etc/systemd/system/one.service", &after),
            ("etc/systemd/system/two.service", &network),
            ("etc/netrec/netrec.toml", if held_back { &held } else { file }),
        ];
        if held_back {
            // The host went down while it waited.
            files.extend([("var/lib/netrec/held.json", held_json.as_str()), ("var/lib/netrec/confirmed.toml", file)]);
        }
        let said = booted_with(&files, &[service, "one.service", "two.service"], &ask.replace("SERVICE", service));
        let there = "nr-front eth0@if";
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].starts_with(&format!("{service}: {there}")) && lines[0].ends_with("UP 10.20.0.10/24"),
            "{said}"
        );
        assert!(
            lines[1].starts_with(&format!("network.target: {there}")) && lines[1].ends_with("UP 10.20.0.10/24"),
            "{said}"
        );
        let plan = if held_back {
            "# containers.web.networks.front (/etc/netrec/netrec.toml:4)"
        } else {
            "No changes. HOST matches /etc/netrec/netrec.toml."
        };
        assert_eq!(lines[2..], ["active", plan, if held_back { "1" } else { "0" }], "{said}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-analyze"]) {
        lab::kernel::not_tried("the units", &why);
        return;
    }
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");
    let folder = std::env::temp_dir().join(format!("netrec-units-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(units).expect("the units") {
        let path = entry.expect("a unit").path();
        let text = fs::read_to_string(&path).expect("a unit").replace("/usr/bin/netrec", NETREC);
        let copy = folder.join(path.file_name().expect("a name"));
        fs::write(&copy, text).expect("a copy");
        names.push(copy.display().to_string());
    }
    let verify = Command::new("systemd-analyze").arg("verify").args(&names).output().expect("systemd-analyze");
    let watch = format!("{units}/netrec-watch.service");
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=50", "--no-pager", &watch]);
    let security = security.output().expect("systemd-analyze");
    fs::remove_dir_all(&folder).expect("the folder is gone");
    assert_eq!((verify.status.code(), String::from_utf8_lossy(&verify.stderr).as_ref()), (Some(0), ""));
    let said = String::from_utf8_lossy(&security.stdout);
    // Ends with another status above the threshold, which is ten times the exposure level.
    assert_eq!(security.status.code(), Some(0), "{said}");
    // Of each directive that it lacks the unit says why.
    let text = unit("netrec-watch.service");
    for line in said.lines().filter_map(|line| line.trim_start().strip_prefix('✗')) {
        let name = line.trim_start().split('=').next().unwrap_or_default();
        assert!(text.contains(&format!("{name}=")), "{line}");
    }
    assert!(said.contains("Overall exposure level for netrec-watch.service: 5.0"), "{said}");
}
/// Services with namespaces of their own and without, and a machine: started, attached, started again, stopped, and out of the
/// file.
const UNITS: &str = r#"
mkdir -p /run/shop/www /run/inner/bin /run/inner/etc /run/inner/usr
echo shop >/run/shop/www/index.html
busybox=$(command -v busybox)
unit() { printf "[Service]\nExecStart=$busybox httpd -f -p $2 -h /run/shop/www\n$3\n" >/run/systemd/system/$1.service; }
unit private 80 PrivateNetwork=yes
unit joined 80 NetworkNamespacePath=/run/netns/joined
unit plain 81 ""
# A machine of busybox alone, and the libraries of one that is not static.
cp "$busybox" /run/inner/bin/busybox
for library in $(ldd "$busybox" 2>/dev/null | grep -o '/[^ ]*'); do
    mkdir -p "/run/inner$(dirname "$library")"
    cp -L "$library" "/run/inner$library"
done
echo ID=test >/run/inner/etc/os-release
echo machine >/run/inner/index.html
ip link set lo up
ip netns add joined
ip -n joined link set lo up
systemctl daemon-reload
systemctl start private joined plain
cat >/run/shop/netrec.toml <<T
[networks.front]
subnet = "10.20.0.0/24"
[containers.a]
unit = "private"
networks.front = { address = "10.20.0.10", interface = "lan" }
ports = ["127.0.0.1:8080:80"]
[containers.b]
unit = "joined.service"
networks.front = { address = "10.20.0.11" }
[containers.c]
machine = "inner"
networks.front = { address = "10.20.0.12" }
T
netrec() {
    command "$NETREC" -c /run/shop/netrec.toml --host shop "$@"
}
# What answers, once it does.
get() {
    n=0
    until busybox wget -qO- "http://$1/" 2>/dev/null; do
        n=$((n + 1))
        [ $n -lt 100 ] || { echo nothing; return; }
        sleep 0.1
    done
}
netrec apply -y >/dev/null 2>&1
echo "private: $(get 10.20.0.10), joined: $(get 10.20.0.11), published: $(get 127.0.0.1:8080)"
netrec plan 2>&1 | head -n 1
systemd-run --quiet --unit=inner systemd-nspawn --quiet --directory=/run/inner --private-network --machine=inner --as-pid2 \
    /bin/busybox httpd -f -p 80 -h /
until machinectl show -p Leader inner >/dev/null 2>&1; do sleep 0.1; done
netrec apply -y >/dev/null 2>&1
echo "machine: $(get 10.20.0.12)"
netrec plan --detailed-exitcode >/run/plan
tail -n 1 /run/plan
systemctl restart private
netrec apply -y >/dev/null 2>&1
echo "again: $(get 10.20.0.10) $(get 127.0.0.1:8080)"
systemctl stop private
machinectl terminate inner
while machinectl show inner >/dev/null 2>&1; do sleep 0.1; done
netrec apply -y 2>/dev/null | grep waiting
netrec plan --detailed-exitcode >/run/plan
tail -n 1 /run/plan
ip -br link | grep -c '^ve-'
sed -i 's/"private"/"plain"/; /machine/d' /run/shop/netrec.toml
netrec plan 2>&1 || true
sed -i 's/"plain"/"nothing"/' /run/shop/netrec.toml
netrec plan | head -n 1
netrec destroy -y >/dev/null 2>&1
ip -br link | grep -c -e '^ve-' -e '^nr-' || true
ip -n joined -br link | cut -d' ' -f1
"#;

#[test]
fn units_and_machines_live_on_networks_of_netrecs() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-nspawn", "systemd-run", "busctl", "busybox"]) {
        lab::kernel::not_tried("units and machines", &why);
        return;
    }
    let said = booted(UNITS);
    let no_changes = "No changes. shop matches /run/shop/netrec.toml.";
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "private: shop, joined: shop, published: shop",
            "!   waiting: containers.c waits for machine `inner`, which does not run (machinectl start inner)",
            "machine: machine",
            no_changes,
            "again: shop shop",
            "!   waiting: containers.a waits for unit `private.service`, which does not run (systemctl start private.service)",
            "!   waiting: containers.c waits for machine `inner`, which does not run (machinectl start inner)",
            no_changes,
            "1",
            "error: container `a` (/run/shop/netrec.toml:3) is to live in unit `plain.service`, which is in this host's own \
             network namespace: set `PrivateNetwork=yes` in the unit",
            "!   waiting: containers.a waits for unit `nothing.service`, which does not exist",
            "0",
            "lo",
        ]
    );
}

/// Installed, started at boot, installed again over a file that was changed, removed, and purged.
const PACKAGE: &str = r#"
# Not the library's and not the one laid there for units: the one of the package.
unset -f netrec
[ -e /stage ] || rm -f /usr/bin/netrec
# The files there are. Of others those may change that are netrec's business.
list() {
    find /etc /usr/bin /usr/lib/systemd /usr/share/man /usr/share/doc /usr/share/bash-completion /usr/share/zsh \
        /usr/share/fish /usr/share/netrec /var/lib/netrec 2>/dev/null | sort
    find /etc/iproute2 -type f -exec md5sum {} +
}
say() { echo "$@" >>/stages/said; }
quietly() { "$@" >/stages/log 2>&1 || { cat /stages/log >>/stages/said; say "$1 failed"; }; }
install() { quietly dpkg --force-unsafe-io -i "$DEB"; }
mkdir -p /stages
# Another program's index of the manual takes longer than all the rest.
rm -f /var/lib/man-db/auto-update
# What a netrec of this machine's may have kept is none of the package's.
[ -e /stage ] || rm -rf /var/lib/netrec
trap 'cat /stages/said' EXIT
case $(cat /stage 2>/dev/null) in
'')
    list >/stages/before
    install
    say "installed: $(dpkg-query -W -f='${Status}' netrec), $(systemctl is-enabled netrec.service)"
    say "valid: $(netrec validate 2>&1)"
    say "manual: $(man -w netrec-apply)"
    cat /usr/share/doc/netrec/examples/quickstart.toml >/etc/netrec/netrec.toml
    quietly systemctl enable netrec.service
    say "nothing yet: $(ip -br link show group netrec | wc -l)"
    echo booted >/stage
    touch /boot-again
    ;;
booted)
    say "booted: $(systemctl is-active netrec.service), $(netrec plan | grep -o '^No changes')"
    say "names: $(ip -br link show group netrec | grep -c '^ve-') $(ip -n web route show proto netrec | cut -d' ' -f1)"
    install
    say "again: $(head -n 1 /etc/netrec/netrec.toml | cut -c 1-14)"
    quietly systemctl enable netrec-watch.service
    quietly systemctl start netrec-watch.service
    before=$(systemctl show --value -p MainPID netrec-watch.service)
    install
    after=$(systemctl show --value -p MainPID netrec-watch.service)
    say "the watch: $(systemctl is-active netrec-watch.service) $([ "$before" != "$after" ] && echo by the new program)"
    quietly dpkg --force-unsafe-io -r netrec
    say "removed: $(head -n 1 /etc/netrec/netrec.toml | cut -c 1-14) $(ip -br link | grep -c '^ve-') $(systemctl list-units --plain --no-legend 'netrec*' | wc -l)"
    install
    quietly netrec destroy -y
    quietly dpkg --force-unsafe-io -P netrec
    say "purged: $(dpkg-query -W netrec 2>&1) $(ip -br link | grep -c -e '^ve-' -e '^nr-')"
    list >/stages/after
    diff /stages/before /stages/after >>/stages/said && say "nothing is left"
    ;;
esac
"#;

#[test]
fn the_package_comes_boots_and_goes() {
    if let Some(why) = lab::kernel::obstacle(&["systemd-nspawn", "dpkg-deb", "objdump", "man"]) {
        lab::kernel::not_tried("the package", &why);
        return;
    }
    // Not in /tmp, which a system that boots has of its own.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("netrec-deb-{}", std::process::id()));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/deb.sh");
    let made = Command::new("sh").args([script, NETREC]).arg(&folder).env("NETREC_DEB_COMPRESSION", "none").output();
    let made = made.expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let package = String::from_utf8(made.stdout).expect("a path");
    let said = booted(&PACKAGE.replace("$DEB", package.trim()));
    fs::remove_dir_all(&folder).expect("the folder is gone");
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "installed: install ok installed, disabled",
            "valid: /etc/netrec/netrec.toml is valid: 0 networks, 0 containers",
            "manual: /usr/share/man/man1/netrec-apply.1.gz",
            "nothing yet: 0",
            "booted: active, No changes",
            "names: 3 default",
            "again: # A web server",
            "the watch: active by the new program",
            "removed: # A web server 3 0",
            "purged: dpkg-query: no packages found matching netrec 0",
            "nothing is left",
        ]
    );
}
