//! Containers of real engines: started with `--network none`, they get networks, published ports and names of interfaces from
//! netrec, as often as they are started, and leave nothing behind.

#![allow(clippy::expect_used)] // a helper of the test is a test too

mod lab;

use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, NETREC, Output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab");
/// What a container does.
const SERVE: &str = "mkdir -p /www; echo shop >/www/index.html; exec httpd -f -p 80 -h /www";

/// An engine on the lab's host, until dropped.
struct Engine<'a> {
    lab: &'a Lab,
    /// The key of the file, and the engine's command.
    key: &'static str,
    script: String,
    data: String,
    cgroup: String,
    env: Vec<(&'static str, String)>,
    options: &'static [&'static str],
}

impl<'a> Engine<'a> {
    /// Docker, where its socket's place is given by the environment.
    fn docker(lab: &'a Lab) -> Result<Self, String> {
        // It writes a key there.
        lab.host.sh("mkdir /run/etc /run/etc.work && mount -t overlay overlay \
                     -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc");
        let mut engine = Self::new(lab, "docker", "dockerd.sh");
        engine.env.push(("DOCKER_HOST", format!("unix://{}/docker.sock", engine.data)));
        engine.start(&["--bridge=none", "--iptables=false", "--ip6tables=false"])
    }

    /// Podman, at its own place.
    fn podman(lab: &'a Lab) -> Result<Self, String> {
        Self::new(lab, "podman", "podman.sh").start(&[])
    }

    fn new(lab: &'a Lab, key: &'static str, script: &str) -> Self {
        let inode = lab.host.sh("stat -Lc %i /proc/self/ns/net");
        let cgroup = format!("netrec-test-{key}-{}", inode.trim());
        // `/var/lib` is the lab's own.
        Self {
            lab,
            key,
            script: format!("{SCRIPTS}/{script}"),
            data: format!("/var/lib/{key}-test"),
            cgroup,
            env: Vec::new(),
            options: &[],
        }
    }

    fn start(mut self, options: &'static [&'static str]) -> Result<Self, String> {
        self.options = options;
        let words = [&[self.script.as_str(), "start", &self.data, &self.cgroup], options].concat();
        let started = self.lab.host.try_run(words);
        if started.status == 0 { Ok(self) } else { Err(started.stderr) }
    }

    /// Runs a line of the engine's command.
    fn run(&self, line: &str) -> String {
        let Self { lab, script, data, cgroup, .. } = self;
        lab.host.sh(&match (self.key, line.strip_prefix("run -d ")) {
            ("docker", _) => format!("docker -H unix://{data}/docker.sock {line}"),
            (_, Some(rest)) => format!("{script} container {data} {cgroup} {rest}"),
            // Docker does not wait for what it removes.
            (_, None) => format!("{script} run {data} {cgroup} {}", line.replace("rm -f ", "rm -f -t 0 ")),
        })
    }

    /// The engine goes away and comes back, its data kept.
    fn restart_engine(&self) {
        let Self { lab, script, data, cgroup, options, .. } = self;
        lab.host.run([script.as_str(), "stop", data, cgroup]);
        let words = [&[script.as_str(), "start", data, cgroup], *options].concat();
        lab.host.run(words);
    }

    /// The file, and the environment that says where the engine is.
    fn file(&self) -> (String, Vec<(&str, &str)>) {
        let file = self.lab.host.write(
            "netrec.toml",
            &format!(
                "[networks.front]\nsubnet = \"10.20.0.0/24\"\n\n[containers.shop]\n{} = \"web\"\n\
                 networks.front = {{ address = \"10.20.0.10\", interface = \"lan\" }}\nports = [\"8080:80\"]\n",
                self.key
            ),
        );
        (file, self.env.iter().map(|(name, value)| (*name, value.as_str())).collect())
    }

    fn netrec(&self, args: &[&str]) -> Output {
        let (file, env) = self.file();
        self.lab.host.netrec_with_env(&env, &[&["-c", &file], args].concat())
    }

    /// Applies, and says how many changes there were.
    fn apply(&self) -> usize {
        let output = self.netrec(&["apply", "-y", "--json"]);
        assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{}", output.stdout);
        let done: serde_json::Value = serde_json::from_str(&output.stdout).expect("a document");
        done["actions"].as_array().map_or(0, Vec::len)
    }

    /// The first line of a plan, which is no change.
    fn waits(&self) -> String {
        let output = self.netrec(&["plan", "--detailed-exitcode"]);
        assert_eq!(output.status, 0, "{}{}", output.stdout, output.stderr);
        output.stdout.lines().next().unwrap_or_default().to_owned()
    }

    /// What the container serves, by its published port, from outside.
    fn reached(&self) {
        let page = || self.lab.world.http_get("192.0.2.1:8080", "/");
        lab::until("the container serves", || page().is_ok());
        assert_eq!(page(), Ok((200, "shop\n".to_owned())));
        let inside = self.run("exec web busybox ip -o addr show dev lan");
        assert!(inside.contains("inet 10.20.0.10/24"), "{inside}");
        assert_eq!(self.apply(), 0);
    }

    /// Waits until what the container serves is had by its published port, since somebody else has attached it.
    fn is_attached(&self, when: &str) {
        lab::until(&format!("the container is attached {when}"), || {
            self.lab.world.http_get("192.0.2.1:8080", "/") == Ok((200, "shop\n".to_owned()))
        });
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let stopped = self.lab.host.try_run([self.script.as_str(), "stop", &self.data, &self.cgroup]);
        // Not while another panic is on its way, whose words matter more.
        assert!(stopped.status == 0 || std::thread::panicking(), "{}", stopped.stderr);
    }
}

/// A container's whole life.
fn lives(engine: &Engine<'_>) {
    let (key, name) = (engine.key, if engine.key == "docker" { "Docker" } else { "Podman" });
    let host = &engine.lab.host;
    engine.apply();
    let waits = |why: &str| format!("!   waiting: containers.shop waits for container `web` of {name}, which {why}");
    assert_eq!(engine.waits(), waits(&format!("does not exist ({key} run -d --network none --name web IMAGE)")));
    engine.run(&format!("run -d --network none --name web busybox sh -c '{SERVE}'"));
    assert!(engine.apply() > 0);
    engine.reached();

    // A new namespace with every start.
    engine.run("restart -t 0 web");
    assert!(engine.apply() > 0);
    engine.reached();

    engine.run("stop -t 0 web");
    engine.apply();
    assert_eq!(engine.waits(), waits(&format!("does not run ({key} start web)")));
    assert!(!host.sh("ip -br link").contains("ve-"), "its interface is gone");
    assert!(!host.sh("nft list table inet netrec").contains("8080"), "its ports are gone");
    engine.run("start web");
    engine.apply();
    engine.reached();

    // Out of the file while it runs, it is left as it was.
    engine.netrec(&["destroy", "-y"]);
    let inside = engine.run("exec web busybox ip -o link");
    assert!(inside.contains(": lo:") && inside.lines().count() == 1, "{inside}");
    assert_eq!(host.sh("ip -br link | grep -c -e ve- -e nr- || true"), "0\n");
    is_left(engine);
    engine.apply();
    engine.reached();
    engine.run("rm -f web");
    engine.apply();
    assert!(engine.waits().contains("which does not exist"));
    assert!(!host.sh("ip -br link").contains("ve-"), "nothing is left");
    engine.netrec(&["destroy", "-y"]);

    // On a network of the engine's own it is not touched, and says so in one sentence.
    engine.run("run -d --network host --name web busybox sh -c 'exec httpd -f -p 81 -h /'");
    let output = engine.netrec(&["apply", "-y"]);
    assert_eq!((output.status, output.stdout.as_str()), (1, ""));
    let expected = format!(
        "error: container `shop` (/run/lab/netrec.toml:4) is to live in container `web` of {name}, which has network `host` \
         of {name}'s own: start it with `--network none`, since one alone can set up a namespace\n"
    );
    assert_eq!(output.stderr, expected);
    assert!(!host.sh("ip -br link").contains("nr-front"), "nothing was done");
}

/// What netrec made in it is found and removed when no file names the container any more, though the host has no end of it.
fn is_left(engine: &Engine<'_>) {
    let network = "[networks.wire]\ndriver = \"macvlan\"\nparent = \"uplink\"\nsubnet = \"10.60.0.0/24\"\n";
    let named = format!("{network}[containers.shop]\n{} = \"web\"\nnetworks = [\"wire\"]\n", engine.key);
    let apply = |toml: &str| {
        let file = engine.lab.host.write("wire.toml", toml);
        let env: Vec<_> = engine.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let output = engine.lab.host.netrec_with_env(&env, &["-c", &file, "apply", "-y", "--json"]);
        assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{}", output.stdout);
    };
    let has = || engine.run("exec web busybox ip -o link").lines().count() == 2;
    for (toml, there) in [(named.as_str(), true), (network, false), (&named, true), ("", false)] {
        apply(toml);
        assert_eq!(has(), there, "{toml}");
    }
}

/// `netrec watch`, until dropped.
struct Watch(Child);

impl Watch {
    fn start(engine: &Engine<'_>) -> Self {
        let (file, env) = engine.file();
        let mut command = Command::new(NETREC);
        command.args(["-c", &file, "watch"]).envs(env).stdin(Stdio::null());
        Self(engine.lab.host.spawn(&mut command).expect("netrec"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// What an engine tells is followed: a container is attached when it starts, whoever starts it, without anybody's applying,
/// though nothing but the engine tells of it, and an engine that is not there yet or goes away is no failure.
fn is_watched(engine: &Engine<'_>) {
    let start = |name: &str| {
        engine.run(&format!("run -d --network none --name {name} busybox sh -c '{SERVE}'"));
    };
    let watch = Watch::start(engine);
    start("other");
    start("web");
    engine.is_attached("when it is made");
    engine.run("restart -t 0 web");
    engine.is_attached("when it is started again");
    engine.run("stop -t 0 web");
    lab::until("its ports are gone", || !engine.lab.host.sh("nft list table inet netrec").contains("8080"));
    engine.run("start web");
    engine.is_attached("when it starts after a while");
    engine.run("rename web gone");
    lab::until("its ports are gone", || !engine.lab.host.sh("nft list table inet netrec").contains("8080"));
    engine.run("rename other web");
    engine.is_attached("under its new name");
    engine.restart_engine();
    engine.run("rm -f web gone other || true");
    start("web");
    engine.is_attached("when the engine was away");
    drop(watch);
    engine.run("rm -f web");
}

/// `examples/podman.toml`, with real containers.
fn is_as_the_example_says(podman: &Engine<'_>) {
    let host = &podman.lab.host;
    podman.run(&format!("run -d --network none --name web busybox sh -c '{SERVE}'"));
    podman.run(&format!("run -d --network none --name db busybox sh -c '{}'", SERVE.replace("80", "5432")));
    let file = host.write("podman.toml", include_str!("../examples/podman.toml"));
    let netrec = |args: &[&str]| host.netrec(&[&["-c", &file], args].concat());
    assert_eq!(netrec(&["apply", "-y"]).status, 0);
    podman.is_attached("as the example says");
    let asks = |name: &str, url: &str| {
        podman.run(&format!("exec {name} busybox wget -q -O - http://{url}/ 2>/dev/null || echo no answer"))
    };
    assert_eq!(asks("web", "10.25.1.10:5432"), "shop\n");
    assert_eq!(asks("db", "192.0.2.1:8080"), "no answer\n", "an internal network leads nowhere");
    podman.run("rm -f web db");
    assert_eq!(netrec(&["destroy", "-y"]).status, 0);
}

#[test]
fn a_container_of_dockers_lives_on_networks_of_netrecs() {
    if let Some(why) = lab::kernel::obstacle(&["dockerd", "docker", "busybox"]) {
        return lab::kernel::not_tried("a container of Docker's", &why);
    }
    lab::in_lab(|lab| match Engine::docker(lab) {
        Ok(docker) => {
            lives(&docker);
            docker.run("rm -f web");
            is_watched(&docker);
        }
        Err(why) => lab::kernel::not_tried("a container of Docker's", &format!("it does not start: {why}")),
    });
}

#[test]
fn a_container_of_podmans_lives_on_networks_of_netrecs() {
    if let Some(why) = lab::kernel::obstacle(&["podman", "runc", "busybox"]) {
        return lab::kernel::not_tried("a container of Podman's", &why);
    }
    lab::in_lab(|lab| match Engine::podman(lab) {
        Ok(podman) => {
            lives(&podman);
            podman.run("rm -f web");
            is_watched(&podman);
            is_as_the_example_says(&podman);
        }
        Err(why) => lab::kernel::not_tried("a container of Podman's", &format!("it does not start: {why}")),
    });
}
