//! Runs a test anew in namespaces of its own, where it is root.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::libc;

/// Tells the test binary that it runs in a sandbox already.
const MARK: &str = "NETREC_LAB_SANDBOX";
/// How a sandbox says that the test's body ran to its end; "0 tests ran" must not look like success.
const DONE: i32 = 42;
/// After this a sandbox that hangs is torn down; `NETREC_LAB_MINUTES` gives sweeps more.
fn limit() -> Duration {
    Duration::from_mins(std::env::var("NETREC_LAB_MINUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(5))
}

/// Runs a test's body in a sandbox. To be called from the test function itself.
pub fn sandbox<F: FnOnce()>(body: F) {
    run_test(std::any::type_name::<F>(), body);
}

/// `closure` is the type name of a closure of the test function: `crate::module::test::{{closure}}`.
pub fn run_test(closure: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        thread::spawn(|| {
            let limit = limit();
            thread::sleep(limit);
            eprintln!("the sandbox is torn down: it did not end within {limit:?}");
            std::process::exit(124);
        });
        body();
        let _ = std::io::stdout().flush();
        std::process::exit(DONE);
    }
    let test = closure.split_once("::").map_or(closure, |(_, path)| path);
    let test = test.strip_suffix("::{{closure}}").unwrap_or(test);
    let parent = std::process::id();
    let mut command = Command::new("unshare");
    command.args(flags()).arg("--").arg(std::env::current_exe().expect("the path of the test binary"));
    command.args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(MARK, "1").stdin(Stdio::null());
    // SAFETY: two system calls, nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            // `unshare` dies with the thread that runs the test, and its child with it (--kill-child).
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid().cast_unsigned() == parent {
                Ok(())
            } else {
                Err(std::io::Error::other("the test has ended already"))
            }
        });
    }
    let output = command.output().expect("unshare (util-linux) is needed for the lab");
    if output.status.code() == Some(DONE) {
        // What could not be tried, or how much of it was, is worth a word even where all is well.
        let said = String::from_utf8_lossy(&output.stdout);
        let tried = |line: &&str| line.starts_with("not tried: ") || line.starts_with("tried: ");
        said.lines().filter(tried).for_each(|line| println!("{line}"));
    } else {
        // By `print!`, so that the test harness shows it with this test.
        print!("{}", String::from_utf8_lossy(&output.stdout));
        print!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            !output.status.success(),
            "no test `{test}` ran in the sandbox: enter it from the test function itself"
        );
        panic!("the test failed in its sandbox ({})", output.status);
    }
}

/// The flags of `unshare`: with a user namespace where it does not work without.
fn flags() -> Vec<&'static str> {
    let plain = ["--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"];
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let flags = [user, &plain].concat();
        let tried = Command::new("unshare").args(&flags).args(["--", "true"]).output();
        if tried.expect("unshare (util-linux) is needed for the lab").status.success() {
            return flags;
        }
    }
    panic!(
        "the lab needs root, or user namespaces: `unshare --user --map-root-user --net --mount --pid --fork true` \
         must work (see kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
    );
}
