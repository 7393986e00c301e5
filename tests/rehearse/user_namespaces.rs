//! Where the system lets only root make user namespaces.

use std::process::Command;

use super::{Ordinary, QUICKSTART, answer, failures};

/// The program in a user namespace in which no more of them may be made; as its root or as somebody else in it.
fn without_user_namespaces(ordinary: &Ordinary, root: bool) -> Command {
    let mut command = Ordinary::runs(Command::new("unshare"));
    command.args(["--user", "--keep-caps", if root { "--map-root-user" } else { "--map-current-user" }]);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    command.args(["sh", "-c", script]).arg(&ordinary.program).args(["-c", "-", "rehearse", "--json"]);
    command
}

#[test]
fn it_says_what_forbids_it_and_how_to_allow_it() {
    let ordinary = Ordinary::new();
    let output = answer(without_user_namespaces(&ordinary, false), QUICKSTART);
    let said = String::from_utf8(output.stderr).unwrap();
    let more = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let more = if more.is_ok_and(|value| value.trim() == "1") {
        " and `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    } else {
        ""
    };
    let wanted = format!(
        "this system lets only root make user namespaces (No space left on device): allow it with `sysctl -w \
         user.max_user_namespaces=10000`{more}, or rehearse as root"
    );
    assert_eq!(said, format!("error: {wanted}\n"));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document, serde_json::json!({ "format_version": "1.1", "error": wanted, "exit_status": 1 }));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn root_does_without_them() {
    let ordinary = Ordinary::new();
    assert_eq!(failures(&answer(without_user_namespaces(&ordinary, true), QUICKSTART)), [""; 0]);
}
