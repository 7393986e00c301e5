//! `netrec watch` and plugins: a device that is removed by hand, a plugin that was restarted and has forgotten, and one that is
//! away for a while.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::SHOP;
use crate::lab::{self, Lab, NETREC};
use crate::plugin::Plugin;

/// A watch under way, and the file of what it says.
struct Watching {
    child: Child,
    said: PathBuf,
}

impl Watching {
    fn start(lab: &Lab, toml: &str) -> Self {
        let file = lab.host.write("netrec.toml", toml);
        let said = lab.host.path("/run/lab/said");
        let mut command = Command::new(NETREC);
        // It fails where what it keeps of the kernel is not what there is.
        command.args(["-c", &file, "watch"]).env("NETREC_CHECK_PICTURE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        Self { child: lab.host.spawn(&mut command).unwrap(), said }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it has said something so often.
    fn says(&self, what: &str, times: usize) {
        lab::until(&format!("it says {what} {times} times"), || self.said().matches(what).count() >= times);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_amiss_is_repaired_while_it_is_watched() {
    lab::in_lab(|lab| {
        let joins = || {
            let calls = fs::read_to_string(lab.host.path("/run/lab/example.calls")).unwrap_or_default();
            calls.matches("NetworkDriver.Join ").count()
        };
        let plugin = Plugin::start(lab, "example", &[]);
        let mut watching = Watching::start(lab, SHOP);
        watching.says(" INFO applied ", 1);
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer");
        assert_eq!(joins(), 2);

        // Somebody removes a device.
        lab.container("web").sh("ip link del lan");
        watching.says(" INFO repaired endpoint web on wide", 1);
        assert_eq!(joins(), 3);
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer");

        // The plugin is restarted, and has forgotten all: its new socket is heard of.
        plugin.end();
        fs::remove_file(lab.host.path("/run/lab/example.calls")).unwrap();
        let plugin = Plugin::start(lab, "example", &[]);
        watching.says(" INFO repaired ", 2);
        assert_eq!(joins(), 2);
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer");

        // It is away while a device goes: that is tried again until it is there.
        plugin.end();
        fs::remove_file(lab.host.path("/run/lab/example.calls")).unwrap();
        lab.container("db").sh("ip link del eth0");
        watching.says("remove endpoint db on wide: plugin `example`: ", 1);
        let _plugin = Plugin::start(lab, "example", &[]);
        watching.says(" INFO repaired ", 3);
        assert_eq!(joins(), 2);
        lab.expect("web ping 10.50.0.11 -> answer\nweb ping fd50::11 -> answer");

        kill(Pid::from_raw(i32::try_from(watching.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(watching.child.wait().unwrap().success(), "{}", watching.said());
    });
}
