//! Beside a real Docker daemon on one host: both engines' containers work, and neither touches what is the other's. Docker
//! sets the policy of iptables' FORWARD to drop, which no other table can overrule; its chain DOCKER-USER is for exceptions.

mod lab;

use crate::lab::{Lab, Snapshot, Space, difference};

const FILE: &str = r#"
[networks.front]
subnet = "10.20.0.0/24"

[containers.web]
networks.front = { address = "10.20.0.10" }
ports = ["8080:80"]

[containers.api]
networks.front = { address = "10.20.0.11" }
"#;

/// What the plan says of Docker, and what its command is.
const DROPS: &str = "chain FORWARD of table ip filter (Docker, hook forward, policy drop) drops traffic out of nr-front and published ports \
     into nr-front and traffic within nr-front; to let it through: iptables -I DOCKER-USER -i nr-front -j ACCEPT && iptables \
     -I DOCKER-USER -o nr-front -j ACCEPT";

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/dockerd.sh");
/// On the machine's own `/var/lib`, which is a tmpfs and goes with it.
const DATA: &str = "/var/lib/docker-test";

/// A daemon on the lab's host, until dropped.
struct Docker<'a> {
    host: &'a Space,
    cgroup: String,
}

impl<'a> Docker<'a> {
    fn start(host: &'a Space, cgroup: String, options: &[&str]) -> Result<Self, String> {
        // It writes a key there.
        host.sh("mkdir /run/etc /run/etc.work && mount -t overlay overlay \
                 -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc");
        let started = host.try_run([&[SCRIPT, "start", DATA, &cgroup], options].concat());
        if started.status == 0 { Ok(Self { host, cgroup }) } else { Err(started.stderr) }
    }

    /// Runs a line of the command `docker`.
    fn run(&self, line: &str) -> String {
        self.host.sh(&format!("docker -H unix://{DATA}/docker.sock {line}"))
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let stopped = self.host.try_run([SCRIPT, "stop", DATA, &self.cgroup]);
        // Not while another panic is on its way, whose words matter more.
        assert!(stopped.status == 0 || std::thread::panicking(), "{}", stopped.stderr);
    }
}

/// A process, until dropped.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All rules but netrec's: as iptables tells them and as nft does, without counters and times.
fn rules(host: &Space) -> String {
    let saved = host.sh("iptables-save; ip6tables-save");
    let saved =
        saved.split_inclusive('\n').filter(|line| !line.starts_with('#')).map(|line| match line.split_once(" [") {
            Some((chain, _)) if chain.starts_with(':') => format!("{chain}\n"),
            _ => line.to_owned(),
        });
    saved.chain(Some(host.foreign_ruleset())).collect()
}

/// The status and body of a page.
fn page(space: &Space, host: &str) -> String {
    space.http_get(host, "/").map_or_else(|no| no.to_string(), |(status, body)| format!("{status} {body}"))
}

/// A container of Docker's by its published port, from everywhere that may.
fn shop_works(lab: &Lab) {
    assert_eq!(page(&lab.world, "192.0.2.1:8081"), "200 shop\n", "from the world");
    assert_eq!(page(&lab.host, "127.0.0.1:8081"), "200 shop\n", "from the host");
}

#[test]
fn netrec_and_docker_share_a_host() {
    if let Some(why) = lab::kernel::obstacle(&["dockerd", "docker", "iptables", "busybox"]) {
        lab::kernel::not_tried("beside a Docker daemon", &why);
        return;
    }
    lab::in_lab(|lab| {
        let host = &lab.host;
        let docker = match Docker::start(
            host,
            format!("netrec-test-{}", host.sh("stat -Lc %i /proc/self/ns/net").trim()),
            &[],
        ) {
            Ok(docker) => docker,
            Err(why) => {
                return lab::kernel::not_tried("beside a Docker daemon", &format!("it does not start: {why}"));
            }
        };
        let serve = "mkdir /www; echo shop >/www/index.html; httpd -p 81 -h /www; exec httpd -f -p 80 -h /www";
        docker.run(&format!("run -d --name shop -p 8081:80 busybox sh -c '{serve}'"));
        let shop = docker.run("inspect -f '{{.NetworkSettings.IPAddress}}' shop").trim().to_owned();
        lab::until("the container serves", || lab.host.http_get(&format!("{shop}:80"), "/").is_ok());
        shop_works(lab);
        drop(host.settle());
        let (before, others) = (rules(host), Snapshot::of_others(host));
        assert!(before.contains(":FORWARD DROP") && before.contains("-A DOCKER-USER -j RETURN"), "{before}");

        let done = host.apply(FILE);
        let warnings = done.json["warnings"].as_array().expect("warnings");
        let of_drops = warnings.iter().filter(|w| w["code"] == "foreign-drop");
        let said: Vec<&str> = of_drops.filter_map(|w| w["message"].as_str()).collect();
        assert_eq!(said, [DROPS]);
        assert!(!done.warnings().contains(&"overlap".to_owned()), "{:?}", done.warnings());
        assert_eq!(difference(&before, &rules(host)), "", "after apply");
        assert_eq!(host.apply(FILE).json["writes"], 0);
        drop(host.settle());
        assert_eq!(others.diff(&Snapshot::of_others(host)), "", "after apply");
        let web = lab.container("web");
        let _listeners = [web.listen_tcp("web", "0.0.0.0:80"), lab.world.listen_tcp("world", "0.0.0.0:443")];
        shop_works(lab);
        lab.expect(
            "
            world tcp 192.0.2.1:8080        -> blocked                # by Docker's policy
            web   tcp 192.0.2.9:443         -> blocked
            api   tcp 10.20.0.10:80         -> blocked                # Docker turned bridge-nf-call-iptables on
            host  tcp 192.0.2.1:8080        -> web sees 192.0.2.1     # what is not forwarded is not dropped
            host  tcp 127.0.0.1:8080        -> web sees 10.20.0.1
            ",
        );

        let (_, exceptions) = DROPS.split_once("; to let it through: ").expect("a command");
        host.sh(exceptions);
        lab.expect(
            "
            world tcp 192.0.2.1:8080        -> web sees 192.0.2.9
            web   tcp 192.0.2.9:443         -> world sees 192.0.2.1
            api   tcp 10.20.0.10:80         -> web sees 10.20.0.11
            world tcp 10.20.0.10:80         -> blocked                # netrec's own rules hold all the same
            ",
        );
        shop_works(lab);
        // From the one's containers to the other's, by published ports; not by netrec's containers' addresses.
        assert_eq!(page(&lab.container("api"), "192.0.2.1:8081"), "200 shop\n");
        let ask = |target: &str| docker.run(&format!("exec shop sh -c 'timeout 3 nc {target} </dev/null || true'"));
        assert_eq!(ask("192.0.2.1 8080"), "web 10.20.0.1\n");
        assert_eq!(ask("10.20.0.10 80"), "");
        // What DOCKER-USER accepts, Docker's own rules are not asked about any more, so that netrec's containers reach also
        // those ports of Docker's that are not published. An exception that leaves out Docker's bridge keeps them closed.
        let unpublished = format!("{shop}:81");
        assert_eq!(page(&lab.container("api"), &unpublished), "200 shop\n");
        host.sh(
            "iptables -D DOCKER-USER -i nr-front -j ACCEPT; iptables -I DOCKER-USER -i nr-front ! -o docker0 -j ACCEPT",
        );
        assert_eq!(page(&lab.container("api"), &unpublished), "blocked");
        assert_eq!(page(&lab.container("api"), "192.0.2.1:8081"), "200 shop\n");
        lab.expect("api tcp 192.0.2.9:443 -> world sees 192.0.2.1\napi tcp 10.20.0.10:80 -> web sees 10.20.0.11");
        let (excepted, others) = (rules(host), Snapshot::of_others(host));

        // A change that nobody confirms, and one that is taken back, leave Docker's alone.
        let other = FILE.replace("10.20.0.", "10.24.0.").replace("front", "other").replace("8080:80", "8095:80");
        for (time, rollback) in [("1s", false), ("1h", true)] {
            let applied = host.try_netrec(&other, &["apply", "-y", "--confirm", time]);
            assert_eq!(applied.status, 0, "{}", applied.stderr);
            if rollback {
                assert_eq!(host.netrec(&["rollback"]).status, 0);
            }
            lab::until("it is taken back", || host.try_netrec(FILE, &["plan", "--detailed-exitcode"]).status == 0);
            drop(host.settle());
            assert_eq!(difference(&excepted, &rules(host)), "", "after --confirm {time}");
            assert_eq!(others.diff(&Snapshot::of_others(host)), "", "after --confirm {time}");
            shop_works(lab);
        }
        let mut connection = lab.world.connect("192.0.2.1:8080").expect("a connection");

        // A change of netrec's and its end leave Docker's alone.
        host.apply(&FILE.replace("8080:80", "8080:80\", \"8090:80"));
        assert_eq!(connection.echo("still there").as_deref(), Ok("still there"));
        lab.expect("world tcp 192.0.2.1:8090 -> web sees 192.0.2.9");
        host.destroy(FILE);
        assert_eq!(difference(&excepted, &rules(host)), "", "after destroy");
        drop(host.settle());
        assert_eq!(others.diff(&Snapshot::of_others(host)), "", "after destroy");
        shop_works(lab);
        assert_eq!(docker.run("exec shop busybox cat /www/index.html"), "shop\n");
        assert_eq!(docker.run("inspect -f '{{.State.Running}}' shop"), "true\n");
        host.sh(
            "iptables -D DOCKER-USER -i nr-front ! -o docker0 -j ACCEPT; iptables -D DOCKER-USER -o nr-front -j ACCEPT",
        );
        assert_eq!(difference(&before, &rules(host)), "");
    });
}

/// The methods that change something of all calls so far, which are forgotten then.
fn changes(host: &Space) -> Vec<String> {
    const QUESTIONS: [&str; 4] = ["Plugin.", "GetCapabilities", "GetDefaultAddressSpaces", "EndpointOperInfo"];
    let calls = host.sh("cut -d' ' -f1 /run/lab/calls; rm /run/lab/calls");
    let changes = calls.lines().filter(|call| !QUESTIONS.iter().any(|word| call.contains(word)));
    changes.map(str::to_owned).collect()
}

/// The example plugin answers what Docker's own client asks: its containers get addresses from it and reach each other by it.
/// And netrec asks what Docker does, call by call.
#[test]
fn the_example_plugin_is_one_of_dockers() {
    let what = "the example plugin with Docker";
    if let Some(why) = lab::kernel::obstacle(&["dockerd", "docker", "iptables", "busybox", "python3"]) {
        return lab::kernel::not_tried(what, &why);
    }
    lab::in_lab(|lab| {
        let host = &lab.host;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugin/plugin.py");
        let mut plugin = std::process::Command::new("python3");
        plugin.args([program, "/run/docker/plugins/example.sock", "--log", "/run/lab/calls"]);
        let null = std::process::Stdio::null;
        let _plugin = Ends(host.spawn(plugin.stdin(null()).stdout(null()).stderr(null())).expect("python3"));
        lab::until("the plugin listens", || host.path("/run/docker/plugins/example.sock").exists());
        let cgroup = format!("netrec-test-{}", host.sh("stat -Lc %i /proc/self/ns/net").trim());
        // Its rules would drop what passes a bridge that is not its own.
        let docker = match Docker::start(host, cgroup, &["--iptables=false", "--ip6tables=false"]) {
            Ok(docker) => docker,
            Err(why) => return lab::kernel::not_tried(what, &format!("it does not start: {why}")),
        };
        docker.run("network create -d example --ipam-driver example --subnet 10.60.0.0/24 --gateway 10.60.0.1 wide");
        let serve = "mkdir /www; echo shop >/www/index.html; exec httpd -f -p 80 -h /www";
        docker.run(&format!("run -d --name shop --network wide busybox sh -c '{serve}'"));
        lab::until("the container serves", || host.http_get("10.60.0.2:80", "/").is_ok());
        let ask = "printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | timeout 5 nc 10.60.0.2 80 || true";
        let asked = docker.run(&format!("run --rm --network wide busybox sh -c '{ask}'"));
        assert!(asked.ends_with("shop\n"), "{asked}");
        docker.run("rm -f shop");
        docker.run("network rm wide");
        let by_docker = changes(host);
        assert_eq!(by_docker.len(), 22, "{by_docker:?}");
        // Nothing but the ids tells netrec's calls from Docker's.
        let file = "[networks.wide]\ndriver = \"remote\"\nplugin = \"example\"\nipam = \"example\"\nsubnet = \"10.60.0.0/24\"\n\
                    [containers.shop]\nnetworks = [\"wide\"]\n[containers.other]\nnetworks = [\"wide\"]\n";
        host.apply(file);
        lab.expect("other ping 10.60.0.3 -> answer");
        host.destroy(file);
        assert_eq!(changes(host), by_docker);
        assert_eq!(host.sh("ip -br link | grep -e pb- -e pv- || true"), "");
    });
}
