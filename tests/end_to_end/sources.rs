//! Containers in namespaces that others made: processes, and containers of an engine whose every answer, and silence, is the
//! test's. Real engines are in `tests/engines.rs`, systemd in `tests/systemd.rs`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::lab::{self, Lab, Output, Snapshot, Space};

const NETWORK: &str = "[networks.front]\nsubnet = [\"10.20.0.0/24\", \"fd20::/64\"]\n";

/// A container that says where its namespace is.
fn file(key: &str) -> String {
    format!(
        "{NETWORK}\n[containers.web]\n{key}\nnetworks.front = {{ address = [\"10.20.0.10\", \"fd20::10\"], interface = \"lan\" \
         }}\nports = [\"8080:80\"]\n\n[containers.api]\nnetworks.front = {{ address = \"10.20.0.11\" }}\n"
    )
}

/// A process of the host in a network namespace of its own.
fn process(lab: &Lab) -> u32 {
    let number = lab.host.sh("unshare -n sleep infinity >/dev/null 2>&1 & echo $!").trim().parse().expect("a number");
    until_alone(lab, number);
    number
}

fn until_alone(lab: &Lab, number: u32) {
    let of = |process: &str| lab.host.path(format!("/proc/{process}/ns/net")).metadata().map(|m| m.ino()).ok();
    lab::until("it is in a namespace of its own", || of(&number.to_string()).is_some_and(|ino| Some(ino) != of("1")));
}

fn inside(lab: &Lab, process: u32) -> Space {
    lab.host.at(&format!("/proc/{process}/ns/net"), "web")
}

fn end(lab: &Lab, process: u32) {
    lab.host.sh(&format!("kill -9 {process}"));
    lab::until("it has ended", || !lab.host.path(format!("/proc/{process}")).exists());
}

/// Another process of the same number.
fn again(lab: &Lab, number: u32) {
    let line = format!(
        "echo {} >/proc/sys/kernel/ns_last_pid; unshare -n sleep infinity >/dev/null 2>&1 & echo $!",
        number - 1
    );
    // Somebody else may have been given it meanwhile, and is gone soon.
    lab::until("it has the number", || {
        let got: u32 = lab.host.sh(&line).trim().parse().expect("a number");
        if got != number {
            lab.host.sh(&format!("kill -9 {got}"));
        }
        got == number
    });
    until_alone(lab, number);
}

/// The published port answers from outside, by both families.
fn reached(lab: &Lab, web: &Space) {
    let _web = web.listen_tcp("web", "[::]:80");
    lab.expect(
        "
        world tcp 192.0.2.1:8080       -> web sees 192.0.2.9
        world tcp [2001:db8::1]:8080   -> web sees 2001:db8::9
        api   tcp 10.20.0.10:80        -> web sees 10.20.0.11
        ",
    );
}

fn messages(json: &serde_json::Value, code: &str) -> Vec<String> {
    let warnings = json["warnings"].as_array().expect("warnings");
    let said = warnings.iter().filter(|w| w["code"] == code).filter_map(|w| w["message"].as_str());
    said.map(str::to_owned).collect()
}

#[test]
fn a_process_is_what_it_is_and_not_its_number() {
    lab::in_lab(|lab| {
        let number = process(lab);
        let file = file(&format!("pid = {number}"));
        let save = |name: &str| {
            let path = format!("/run/lab/{name}");
            assert_eq!(lab.host.try_netrec(&file, &["plan", "-o", &path]).status, 0);
            path
        };
        let plan = save("plan");
        let first = lab.host.netrec(&["apply", &plan]);
        assert_eq!(first.status, 0, "{}", first.stderr);
        assert!(
            first.stdout.contains(&format!("+   address 10.20.0.10/24 dev lan in pid:{number}: ")),
            "{}",
            first.stdout
        );
        reached(lab, &inside(lab, number));
        assert_eq!(lab.host.plan(&file).actions(), [""; 0]);

        // A plan to mend something is one for this process, whatever has its number by then.
        lab.host.sh(&format!("nsenter -t {number} -n ip addr del 10.20.0.10/24 dev lan"));
        let plan = save("mend");
        end(lab, number);
        again(lab, number);
        let stale = lab.host.netrec(&["apply", &plan]);
        assert_eq!((stale.status, stale.stdout.as_str()), (6, ""));
        let said = stale.stderr.lines().nth(1);
        assert_eq!(said, Some(&*format!("process {number} has another network namespace now")), "{}", stale.stderr);

        // It is attached anew, and where it is gone it is waited for.
        lab.host.apply(&file);
        reached(lab, &inside(lab, number));
        assert_eq!(lab.host.plan(&file).actions(), [""; 0]);
        end(lab, number);
        let planned = lab.host.try_netrec(&file, &["plan", "--detailed-exitcode"]);
        let waits = format!("!   waiting: containers.web waits for process {number}, which does not run\n");
        assert!(planned.stdout.contains(&waits), "{}", planned.stdout);
        let done = lab.host.apply(&file);
        assert_eq!(messages(&done.json, "waiting"), [waits.trim_start_matches("!   waiting: ").trim_end()]);
        let planned = lab.host.try_netrec(&file, &["plan", "--detailed-exitcode"]);
        assert_eq!(planned.status, 0, "waiting is no change: {}", planned.stdout);
        assert!(!lab.host.sh("ip -br link").contains("ve-web"), "what it had is gone");
        assert!(!lab.host.sh("nft list table inet netrec").contains("8080"));
        assert_eq!(lab.host.plan(NETWORK).warnings(), [""; 0]);
    });
}

#[test]
fn namespaces_that_are_not_to_be_had_are_refused() {
    lab::in_lab(|lab| {
        let own = lab.host.sh("sleep infinity >/dev/null 2>&1 & echo $!");
        let refused = |file: &str| {
            let output = lab.host.try_netrec(file, &["plan"]);
            assert_eq!((output.status, output.stdout.as_str()), (1, ""));
            output.stderr
        };
        let own = own.trim();
        assert_eq!(
            refused(&file(&format!("pid = {own}"))),
            format!(
                "error: container `web` (/run/lab/netrec.toml:4) is to live in process {own}, which is in this host's own \
                 network namespace: name a process in a network namespace of its own\n"
            )
        );
        let number = process(lab);
        assert_eq!(
            refused(&format!(
                "{}\n[containers.other]\nnetns = \"/proc/{number}/ns/net\"\n",
                file(&format!("pid = {number}"))
            )),
            format!(
                "error: container `other` (/run/lab/netrec.toml:12) is to live in /proc/{number}/ns/net, which is the \
                 namespace of container `web` too\n"
            )
        );
        // A device in the way, and the command that takes it away.
        lab.host.sh(&format!("nsenter -t {number} -n ip link add lan type bridge"));
        let file = file(&format!("pid = {number}"));
        let said = refused(&file);
        assert!(said.starts_with(&format!("error: link lan in pid:{number} exists and is not netrec's")), "{said}");
        let (_, command) = said.trim_end().rsplit_once("remove: `").expect("a way out");
        lab.host.sh(command.trim_end_matches('`'));
        lab.host.apply(&file);
        reached(lab, &inside(lab, number));
    });
}

#[test]
fn what_is_taken_back_in_a_process_is_what_it_had() {
    lab::in_lab(|lab| {
        let number = process(lab);
        let first = file(&format!("pid = {number}"));
        let second = first.replace("10.20.0.10", "10.20.0.20").replace("8080:80", "8090:80");
        let change = || {
            lab.host.apply(&first);
            let output = lab.host.try_netrec(&second, &["apply", "-y", "--confirm", "1h"]);
            assert_eq!(output.status, 0, "{}", output.stderr);
            let inside = inside(lab, number).sh("ip -br addr show lan");
            assert!(inside.contains("10.20.0.20/24") && !inside.contains("10.20.0.10/24"), "{inside}");
        };
        change();
        let output = lab.host.netrec(&["rollback"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        reached(lab, &inside(lab, number));
        assert_eq!(lab.host.plan(&first).actions(), [""; 0]);
        // What it had cannot be brought back once it has ended; all else is.
        change();
        end(lab, number);
        let output = lab.host.netrec(&["rollback"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert!(!lab.host.sh("ip -br link").contains("ve-web"));
        let output = lab.host.try_netrec(&first, &["plan", "--target", "containers.web"]);
        let waits = format!("!   waiting: containers.web waits for process {number}, which does not run\n");
        assert!(output.stdout.starts_with(&waits), "{}{}", output.stdout, output.stderr);
    });
}

#[test]
fn a_namespace_that_netrec_made_can_be_named_by_its_path() {
    lab::in_lab(|lab| {
        lab.host.apply(&file("netns = \"web\""));
        let by_path = file("netns = \"/run/netns/web\"");
        lab.host.apply(&by_path);
        reached(lab, &lab.container("web"));
        assert_eq!(lab.host.plan(&by_path).actions(), [""; 0]);
        lab.host.destroy(&by_path);
        assert_eq!(lab.host.netns_names(), [""; 0]);
    });
}

/// What an engine says next: a status with a body, or nothing at all.
type Says = Arc<Mutex<Option<(u16, String)>>>;

/// Something that listens where Docker does.
fn engine(lab: &Lab) -> Says {
    let says = Says::default();
    let listener = UnixListener::bind(lab.host.path("/run/lab/docker.sock")).expect("a socket");
    let answers = says.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            thread::spawn(move || converse(&stream, &answers));
        }
    });
    says
}

fn converse(stream: &UnixStream, says: &Says) {
    let mut lines = BufReader::new(stream).lines();
    loop {
        let mut request = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty());
        let Some(first) = request.next() else { return };
        assert_eq!(first, "GET /containers/web/json HTTP/1.1");
        request.for_each(drop);
        let Some((status, body)) = says.lock().expect("an answer").clone() else { continue };
        let head = format!("HTTP/1.1 {status} Word\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if (&*stream).write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

/// What an engine says of a container.
fn inspected(running: bool, pid: u32, network: &str) -> String {
    format!(
        r#"{{"Id":"e5a3","State":{{"Running":{running},"Pid":{pid},"Status":"x"}},"HostConfig":{{"NetworkMode":"{network}"}}}}"#
    )
}

#[test]
fn what_an_engine_does_not_tell_is_not_taken_away() {
    lab::in_lab(|lab| {
        let says = engine(lab);
        let say = |answer: Option<(u16, String)>| *says.lock().expect("the engine's words") = answer;
        let file = file("docker = \"web\"");
        let netrec = |args: &[&str]| {
            let path = lab.host.write("netrec.toml", &file);
            let env = [("DOCKER_HOST", "unix:///run/lab/docker.sock")];
            lab.host.netrec_with_env(&env, &[&["-c", &path], args].concat())
        };
        let json = |output: &Output| -> serde_json::Value {
            assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{}", output.stdout);
            serde_json::from_str(&output.stdout).expect("a document")
        };
        let number = process(lab);
        say(Some((200, inspected(true, number, "none"))));
        json(&netrec(&["apply", "-y", "--json"]));
        reached(lab, &inside(lab, number));
        drop(lab.host.settle());

        // No answer, no sense, no engine: all of it stays, and what is wrong in it is mended.
        let cannot = "containers.web is taken to live in the namespace where its interfaces are: Docker cannot be asked at \
                      /run/lab/docker.sock";
        let before = Snapshot::of_machine(&lab.host);
        for (answer, why) in [
            (Some((500, r#"{"message":"no such luck"}"#.to_owned())), "it answered 500: no such luck"),
            (Some((404, "not found".to_owned())), "it answered 404"),
            (Some((200, "{}".to_owned())), "its answer makes no sense"),
            (None, "no answer within 5 s"),
        ] {
            say(answer);
            let done = json(&netrec(&["apply", "-y", "--json"]));
            assert_eq!(messages(&done, "waiting"), [format!("{cannot} ({why})")]);
            assert_eq!(done["writes"], 0, "{why}");
        }
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
        lab.host.sh("mv /run/lab/docker.sock /run/lab/away");
        lab.host.sh(&format!("nsenter -t {number} -n ip addr del 10.20.0.10/24 dev lan"));
        let done = json(&netrec(&["apply", "-y", "--json"]));
        assert_eq!(messages(&done, "waiting"), [format!("{cannot} (there is no such socket)")]);
        assert_eq!(done["actions"].as_array().map(Vec::len), Some(2), "{}", done["diff"]);
        reached(lab, &inside(lab, number));
        lab.host.sh("mv /run/lab/away /run/lab/docker.sock");

        // On a network of the engine's own it is not touched.
        say(Some((200, inspected(true, number, "bridge"))));
        let output = netrec(&["apply", "-y"]);
        assert_eq!(output.status, 1);
        assert_eq!(
            output.stderr,
            "error: container `web` (/run/lab/netrec.toml:4) is to live in container `web` of Docker, which has network \
             `bridge` of Docker's own: start it with `--network none`, since one alone can set up a namespace\n"
        );

        // What the engine says for sure counts: what a container had that does not run goes.
        say(Some((200, inspected(false, 0, "none"))));
        let output = netrec(&["plan"]);
        let waits =
            "!   waiting: containers.web waits for container `web` of Docker, which does not run (docker start web)\n";
        assert!(output.stdout.starts_with(waits), "{}", output.stdout);
        json(&netrec(&["apply", "-y", "--json"]));
        assert!(!lab.host.sh("ip -br link").contains("ve-web"), "what it had is gone");
        assert!(!inside(lab, number).sh("ip -br link").contains("lan"));
        say(Some((404, r#"{"message":"No such container: web"}"#.to_owned())));
        let output = netrec(&["plan"]);
        let help = "docker run -d --network none --name web IMAGE";
        let waits =
            format!("!   waiting: containers.web waits for container `web` of Docker, which does not exist ({help})\n");
        assert_eq!(output.stdout, format!("{waits}No changes. host matches /run/lab/netrec.toml.\n"));
        // Nobody to ask and nothing there.
        say(Some((500, String::new())));
        let output = netrec(&["plan", "--detailed-exitcode"]);
        let waits = "!   waiting: containers.web waits for container `web` of Docker: Docker cannot be asked at \
                     /run/lab/docker.sock (it answered 500)\n";
        assert_eq!(
            (output.status, output.stdout.strip_suffix("No changes. host matches /run/lab/netrec.toml.\n")),
            (0, Some(waits))
        );
    });
}

#[test]
fn devices_that_are_in_no_named_namespace_are_found_by_their_marks() {
    lab::in_lab(|lab| {
        if !lab::kernel::has("macvlan") {
            return lab::kernel::not_tried("a device in a namespace without a name", "the kernel has no macvlan");
        }
        let number = process(lab);
        let host = lab.host.path("/proc/1/ns/net").metadata().expect("the host's namespace").ino();
        let make = |name: &str, inode: u64| {
            lab.host.sh(&format!(
                "ip link add link uplink name {name} type macvlan && ip link set {name} netns {number} && \
                 nsenter -t {number} -n ip link set {name} group 20050 alias 'netrec containers.web.networks.lan @{inode}'"
            ));
        };
        make("mine", host);
        make("others", host + 1);
        lab.host.sh(&format!("nsenter -t {number} -n ip link set others alias 'netrec containers.web.networks.lan'"));
        let plan = lab.host.plan(NETWORK);
        let expected = format!("delete link mine in /proc/{number}/ns/net");
        assert_eq!(plan.actions().into_iter().filter(|a| a.contains(" in ")).collect::<Vec<_>>(), [expected.as_str()]);
        lab.host.apply(NETWORK);
        let left = inside(lab, number).sh("ip -br link");
        assert!(!left.contains("mine@") && left.contains("others@"), "{left}");
        make("mine", host);
        assert!(lab.host.destroy(NETWORK).actions().contains(&expected));
        assert!(!inside(lab, number).sh("ip -br link").contains("mine@"));
    });
}

/// A macvlan goes along with the device that it is on, unasked, and leaves what has no device.
#[test]
fn routes_are_found_where_their_device_went_first() {
    lab::in_lab(|lab| {
        let number = process(lab);
        lab.host.sh("ip netns add theirs");
        let routes = "routes = [{ to = '10.9.0.0/16', type = 'blackhole' }, { to = 'fd09::/64', type = 'blackhole' }]";
        let lan = "[networks.lan]\ndriver = 'macvlan'\nparent = 'spare'\nsubnet = ['10.40.0.0/24', 'fd40::/64']\n";
        let file = format!(
            "{NETWORK}{lan}[containers.a]\npid = {number}\nnetworks.lan = {{ {routes} }}\n\
             [containers.b]\nnetns = '/run/netns/theirs'\nnetworks.lan = {{ {routes} }}\n\
             [containers.c]\npid = {number}\nnetworks.front = {{ {routes} }}\n"
        );
        let (macvlans, pair) = file.split_once("[containers.c]").expect("three containers");
        let pair = format!("{NETWORK}[containers.c]{pair}");
        let left = |netns: &str| {
            let all = lab
                .host
                .sh(&format!("nsenter --net={netns} sh -c 'ip route show proto 78; ip -6 route show proto 78'"));
            all.lines().map(|line| line.split(" metric").next().unwrap_or(line).trim().to_owned()).collect::<Vec<_>>()
        };
        let (process, theirs) = (format!("/proc/{number}/ns/net"), "/run/netns/theirs");
        let both = ["blackhole 10.9.0.0/16", "blackhole fd09::/64 dev lo"];
        let device_goes = |file: &str| {
            lab.host.link(&lab.world, "spare", "w1");
            lab.host.apply(file);
            lab.host.sh("ip link del spare; for end in $(ip -o link show type veth | grep -o 've-[^@]*'); do ip link del $end; done");
        };
        let deleted = |at: &str| {
            both.map(|route| {
                let to = route.split(' ').nth(1).unwrap_or_default();
                format!("delete route {to} in {at}")
            })
        };
        device_goes(macvlans);
        assert_eq!(
            (left(&process), left(theirs)),
            (both.map(str::to_owned).to_vec(), both.map(str::to_owned).to_vec())
        );
        let plan = lab.host.plan(NETWORK);
        let actions: Vec<_> = plan.actions().into_iter().filter(|action| action.contains(" route ")).collect();
        let mut expected = [deleted(&process), deleted("theirs")].concat();
        expected.sort();
        assert_eq!(
            {
                let mut actions = actions;
                actions.sort();
                actions
            },
            expected
        );
        lab.host.apply(NETWORK);
        assert_eq!((left(&process), left(theirs)), (vec![], vec![]));
        // Of a pair that somebody removed, by a destroy.
        device_goes(&pair);
        assert_eq!(left(&process), both);
        lab.host.destroy(NETWORK);
        assert_eq!(left(&process), [""; 0]);

        // Where a device is of another host's netrec, they are that one's; and others' are nobody's business.
        lab.host.sh("ip -n theirs link add other group 20050 type bridge; ip -n theirs link set other alias 'netrec containers.b @1'");
        lab.host.sh("ip -n theirs route add blackhole 10.9.0.0/16 proto 78");
        lab.host.sh(&format!("nsenter -t {number} -n ip route add blackhole 10.9.0.0/16"));
        assert_eq!(lab.host.destroy(NETWORK).json["writes"], 0);
        assert_eq!(left(theirs), ["blackhole 10.9.0.0/16"]);
        assert!(lab.host.sh(&format!("nsenter -t {number} -n ip route")).contains("blackhole 10.9.0.0/16"));
    });
}

/// A root without the right to look into processes that have more rights cannot know what it once made there, and says so.
#[test]
fn namespaces_that_may_not_be_looked_into_are_named() {
    lab::in_lab(|lab| {
        if let Some(why) = lab::kernel::program_missing(&["setpriv"]) {
            return lab::kernel::not_tried("a root without CAP_SYS_PTRACE", &why);
        }
        let number = process(lab);
        let file = lab.host.write("netrec.toml", NETWORK);
        let said = |command: &str, sort: &[&str]| {
            let line = format!("setpriv {} {} -c {file} {command} --json", sort.join(" "), lab::NETREC);
            let json = serde_json::from_str(&lab.host.sh(&line)).expect("a document");
            messages(&json, "unseen")
        };
        // In a user namespace netrec can have made nothing where it may not look.
        let map = lab.host.sh("cat /proc/self/uid_map");
        let is_root = map.split_whitespace().eq(["0", "0", "4294967295"]);
        for command in ["plan", "destroy -y"] {
            assert_eq!(said(command, &[]), [""; 0]);
            let told = said(command, &["--bounding-set", "-sys_ptrace"]);
            assert_eq!(told.len(), usize::from(is_root), "{told:?}");
            for message in told {
                let which = message.strip_prefix("netrec may not look into /proc/").expect("the beginning");
                assert!(which.ends_with(": what it may have made there earlier stays"), "{message}");
            }
        }
        end(lab, number);
    });
}

/// Limits of traffic on devices of another host's netrec, and of one inside, in a namespace that this host's uses too.
#[test]
fn limits_of_other_hosts_in_a_shared_namespace_are_theirs() {
    lab::in_lab(|lab| {
        if !lab::kernel::has("ifb") {
            return lab::kernel::not_tried("limits of other hosts", "the kernel has no ifb");
        }
        lab.host.sh("ip netns add theirs");
        for (name, alias) in
            [("lan", "netrec containers.web.networks.lan @1"), ("own", "netrec containers.web.networks.lan")]
        {
            lab.host.sh(&format!(
                "ip='ip -n theirs'; tc='tc -n theirs'
                $ip link add {name} group 20050 type bridge; $ip link set {name} up alias '{alias}'
                $ip link add if-{name} group 20050 type ifb; $ip link set if-{name} up alias '{alias}'
                $tc qdisc add dev {name} root handle 6e72: tbf rate 10mbit burst 16k limit 32k
                $tc qdisc add dev if-{name} root handle 6e72: tbf rate 10mbit burst 16k limit 32k
                $tc qdisc add dev {name} clsact
                $tc filter add dev {name} ingress pref 20050 protocol all u32 match u32 0 0 action mirred egress redirect dev if-{name}"
            ));
        }
        let theirs = || {
            lab.host.sh("for d in lan own if-lan if-own; do tc -n theirs qdisc show dev $d; tc -n theirs filter show dev $d ingress; done")
        };
        let before = theirs();
        assert_eq!(before.matches(" tbf ").count(), 4, "{before}");
        assert_eq!(lab.host.destroy(NETWORK).json["writes"], 0);
        let file = "[networks.wan]\ndriver = 'macvlan'\nparent = 'uplink'\nsubnet = '10.40.0.0/24'\n\
                    [containers.web]\nnetns = '/run/netns/theirs'\nnetworks.wan = { ingress = '5mbit', egress = '5mbit' }\n";
        lab.host.apply(file);
        assert_eq!(lab.host.plan(file).actions(), [""; 0]);
        assert_eq!(theirs(), before);
        lab.host.destroy(file);
        assert_eq!(theirs(), before);
    });
}

#[test]
fn what_is_not_under_systemd_says_so() {
    lab::in_lab(|lab| {
        if let Some(why) = lab::kernel::program_missing(&["systemctl", "busctl"]) {
            return lab::kernel::not_tried("a unit without systemd", &why);
        }
        let file = format!("{NETWORK}[containers.a]\nunit = \"web\"\n[containers.b]\nmachine = \"web\"\n");
        let said = messages(&lab.host.plan(&file).json, "waiting");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("containers.a waits for unit `web.service`: systemd cannot be asked (systemctl: "),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("containers.b waits for machine `web`: systemd-machined cannot be asked (busctl: "),
            "{said:?}"
        );
    });
}
