//! Under a real systemd: a guard outlives the login that asked for it, though the end of a login ends all that belongs to it.

#![allow(clippy::expect_used)] // a helper of the test is a test too

mod lab;

use std::fs;
use std::process::Command;

use crate::lab::NETREC;

const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/boot-systemd.sh");

/// Boots a systemd and runs a script in it, with `netrec` a command. Yields what it says.
fn booted(script: &str) -> String {
    let folder = std::env::temp_dir().join(format!("netrec-systemd-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("script");
    fs::write(&path, format!("#!/bin/sh\nset -eu\nnetrec() {{ {NETREC} \"$@\"; }}\n{script}")).expect("a script");
    let output = Command::new(BOOT).arg(&path).arg("120").output().expect("tests/lab/boot-systemd.sh");
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
