//! The same networks, containers and ports by what others have for it, each as it is run by its engine: a process for each
//! container, or two, with its JSON on standard input. Namespaces and JSON are there before the clock starts, which netrec
//! makes itself.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use super::shared::{run, timed};

const NETAVARK: [&str; 3] = ["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark", "/usr/bin/netavark"];
const CNI: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const DOCKERD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/dockerd.sh");
const DATA: &str = "/var/lib/docker-bench";

/// Why a contender cannot be tried here.
pub(crate) fn obstacle(contender: &str) -> Option<String> {
    let (found, package) = match contender {
        "netavark" => (first(&NETAVARK).is_some(), "netavark"),
        "cni" => (first(&CNI.map(|dir| format!("{dir}/portmap"))).is_some(), "containernetworking-plugins"),
        "docker" => (["dockerd", "busybox"].into_iter().all(on_path), "docker.io and busybox"),
        _ => (true, ""),
    };
    (!found).then(|| format!("it is not installed ({package})"))
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

fn first<P: AsRef<Path>>(paths: &[P]) -> Option<&Path> {
    paths.iter().map(AsRef::as_ref).find(|path| path.exists())
}

fn namespaces(size: Many) {
    let names: Vec<String> = (0..size.containers).map(|n| format!("netns add c-{n:04}")).collect();
    fs::write("/run/names", names.join("\n")).unwrap();
    run(Command::new("ip").args(["-batch", "/run/names"]));
}

/// How many containers to make on how many networks, each with one published port.
#[derive(Clone, Copy)]
pub(crate) struct Many {
    pub(crate) containers: usize,
    pub(crate) networks: usize,
}

/// Runs a program with this on standard input, and returns what it says.
fn fed(command: &mut Command, input: &str) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}

/// Somebody answers at the last port.
fn check(size: Many) {
    let last = size.containers - 1;
    let inside = File::open(format!("/run/netns/c-{last:04}")).unwrap();
    let server = thread::spawn(move || {
        setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("0.0.0.0", 80)).unwrap()
    });
    let listener = server.join().unwrap();
    let (network, port) = (u8::try_from(last % size.networks).unwrap(), u16::try_from(20_000 + last).unwrap());
    let to = SocketAddr::from(([10, network, 0, 1], port));
    let client = thread::spawn(move || {
        let mut said = String::new();
        TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap().read_to_string(&mut said).unwrap();
        said
    });
    listener.accept().unwrap().0.write_all(b"here").unwrap();
    assert_eq!(client.join().unwrap(), "here");
}

/// Podman's: one process for each container.
pub(crate) fn netavark(size: Many) -> Duration {
    let program = first(&NETAVARK).unwrap();
    namespaces(size);
    let wants = |n: usize| {
        let network = n % size.networks;
        let [above, below] = u16::try_from(n / size.networks + 2).unwrap().to_be_bytes();
        wants(n, network, &format!("10.{network}.{above}.{below}"), &json!([port(20_000 + n)]))
    };
    let wanted: Vec<String> = (0..size.containers).map(wants).collect();
    let time = timed(|| {
        for (n, json) in wanted.iter().enumerate() {
            set_up(program, &format!("c-{n:04}"), json);
        }
    });
    check(size);
    time
}

fn set_up(program: &Path, space: &str, json: &str) {
    fed(Command::new(program).args(["--config", "/run/netavark", "setup", &format!("/run/netns/{space}")]), json);
}

/// A port of the host's that leads to 80.
fn port(port: usize) -> Value {
    json!({ "host_ip": "", "host_port": port, "container_port": 80, "range": 1, "protocol": "tcp" })
}

/// What netavark is told of a container.
fn wants(n: usize, network: usize, address: &str, ports: &Value) -> String {
    json!({
        "container_id": format!("{n:064x}"), "container_name": format!("c-{n:04}"), "port_mappings": ports,
        "networks": { "net": { "static_ips": [address], "interface_name": "eth0", "aliases": [] } },
        "network_info": { "net": {
            "name": format!("net-{network}"), "id": format!("{network:064x}"), "driver": "bridge",
            "network_interface": format!("br-{network}"), "ipv6_enabled": false, "internal": false,
            "dns_enabled": false, "ipam_options": { "driver": "host-local" },
            "subnets": [{ "subnet": format!("10.{network}.0.0/16"), "gateway": format!("10.{network}.0.1") }],
        } },
    })
    .to_string()
}

/// Containers `netavark-a`, with port 8080, and `netavark-b`.
pub(crate) fn netavark_pair() {
    for (n, name, ports) in [(11, "netavark-a", json!([port(8080)])), (12, "netavark-b", json!([]))] {
        run(Command::new("ip").args(["netns", "add", name]));
        set_up(first(&NETAVARK).unwrap(), name, &wants(n, 20, &format!("10.20.0.{n}"), &ports));
    }
}

/// The plugins `bridge` (which runs `host-local`) and `portmap`, as a runtime of CNI's runs them.
pub(crate) fn cni(size: Many) -> Duration {
    let dir = first(&CNI).unwrap();
    namespaces(size);
    let time = timed(|| {
        for n in 0..size.containers {
            let (network, name) = (n % size.networks, format!("c-{n:04}"));
            let plugin = |kind: &str, mut settings: Value| {
                settings["cniVersion"] = "1.0.0".into();
                settings["name"] = format!("net-{network}").into();
                settings["type"] = kind.into();
                let mut command = Command::new(dir.join(kind));
                command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", &name).env("CNI_IFNAME", "eth0");
                command.env("CNI_NETNS", format!("/run/netns/{name}")).env("CNI_PATH", dir);
                serde_json::from_slice::<Value>(&fed(&mut command, &settings.to_string())).unwrap()
            };
            let result = plugin(
                "bridge",
                json!({
                    "bridge": format!("br-{network}"), "isGateway": true, "ipMasq": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "dataDir": "/run/cni", "routes": [{ "dst": "0.0.0.0/0" }],
                        "ranges": [[{ "subnet": format!("10.{network}.0.0/16") }]],
                    },
                }),
            );
            let ports = json!([{ "hostPort": 20_000 + n, "containerPort": 80, "protocol": "tcp" }]);
            plugin(
                "portmap",
                json!({
                    "capabilities": { "portMappings": true }, "runtimeConfig": { "portMappings": ports },
                    "prevResult": result,
                }),
            );
        }
    });
    check(size);
    time
}

/// A daemon, until dropped.
pub(crate) struct Docker(String);

impl Docker {
    fn start() -> Result<Self, String> {
        let script = "mount -t tmpfs tmpfs /var/lib; mkdir /run/etc /run/etc.work
            mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc";
        run(Command::new("sh").args(["-ec", script]));
        let cgroup = format!("netrec-bench-{}", std::process::id());
        let log = File::create("/run/docker.log").unwrap();
        let status = Command::new("sh")
            .args([DOCKERD, "start", DATA, &cgroup])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap();
        let docker = Self(cgroup);
        if status.success() { Ok(docker) } else { Err(fs::read_to_string("/run/docker.log").unwrap()) }
    }

    fn docker(words: &[&str]) -> String {
        run(Command::new("docker").args(["-H", &format!("unix://{DATA}/docker.sock")]).args(words))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = Command::new("sh").args([DOCKERD, "stop", DATA, &self.0]).status();
    }
}

/// What a start with a network and a port takes longer than one without, of containers that are made already, by one process.
pub(crate) fn docker(size: Many) -> Result<Duration, String> {
    let _docker = Docker::start()?;
    for network in 0..size.networks {
        let (name, subnet) = (format!("net-{network}"), format!("10.{network}.0.0/16"));
        Docker::docker(&["network", "create", "--subnet", &subnet, &name]);
    }
    let start = |prefix: &str, options: &dyn Fn(usize) -> Vec<String>| {
        let names: Vec<String> = (0..size.containers).map(|n| format!("{prefix}{n}")).collect();
        for (n, name) in names.iter().enumerate() {
            let options = options(n);
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let command = [&["create", "--name", name], &options[..], &["busybox", "busybox", "sleep", "600"]].concat();
            Docker::docker(&command);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        timed(|| drop(Docker::docker(&[&["start"], &names[..]].concat())))
    };
    let without = start("alone-", &|_| vec!["--network".into(), "none".into()]);
    let with = start("c-", &|n| {
        let (network, port) = (format!("net-{}", n % size.networks), format!("{}:80", 20_000 + n));
        vec!["--network".into(), network, "-p".into(), port]
    });
    Ok(with.saturating_sub(without))
}

/// Containers `docker-a`, with port 8080, and `docker-b`, whose namespaces have names then.
pub(crate) fn docker_pair() -> Result<Docker, String> {
    let docker = Docker::start()?;
    Docker::docker(&["network", "create", "--subnet", "10.20.0.0/24", "front"]);
    for (name, address, port) in [("docker-a", "10.20.0.11", &["-p", "8080:80"][..]), ("docker-b", "10.20.0.12", &[])] {
        let command = ["run", "-d", "--name", name, "--network", "front", "--ip", address];
        Docker::docker(&[&command, port, &["busybox", "busybox", "sleep", "3600"]].concat());
        let pid = Docker::docker(&["inspect", "-f", "{{.State.Pid}}", name]);
        let space = format!("/run/netns/{name}");
        File::create(&space).unwrap();
        let from = format!("/proc/{}/ns/net", pid.trim());
        mount(Some(from.as_str()), space.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
    Ok(docker)
}
