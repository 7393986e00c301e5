//! Limits of an attachment's traffic: their objects' life, and how fast packets really are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::attachments::{becomes, mends, named};
use crate::changes::veth;
use crate::lab::{self, Snapshot, Space, assert_same};

/// `web` with these settings, and `api` beside it.
fn shop(settings: &str) -> String {
    format!(
        "[networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
         [containers.web]\nports = ['8080:80']\n\
         networks.front = {{ address = ['10.20.0.10', 'fd20::10']{settings} }}\n\
         [containers.api]\nnetworks.front = {{ address = ['10.20.0.11', 'fd20::11'] }}\n"
    )
}

const BOTH: &str = ", ingress = '20mbit', egress = '10mbit'";

const MADE: &str = "create link IF-WEB
    create qdisc root dev VE-WEB
    create qdisc root dev IF-WEB
    create qdisc ingress dev VE-WEB";

#[test]
fn limits_come_change_and_go() {
    lab::in_lab(|lab| {
        lab.host.apply(&shop(""));
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        drop(lab.host.settle());
        let before = Snapshot::of_machine(&lab.host);
        let mut conn = lab.world.connect("192.0.2.1:8080").expect("a connection");
        let mut lives = |what: &str| assert_eq!(conn.echo(what).as_deref(), Ok(what));
        becomes(lab, "both", &shop(BOTH), MADE);
        lives("both");
        let shown =
            lab.host.sh(&named("tc qdisc show dev VE-WEB root; tc qdisc show dev IF-WEB root; ip -d link show IF-WEB"));
        assert!(shown.contains("tbf 6e72: root refcnt 2 rate 20Mbit burst 25000b lat 50ms"), "{shown}");
        assert!(shown.contains("tbf 6e72: root refcnt 2 rate 10Mbit burst 16Kb lat 50ms"), "{shown}");
        assert!(
            shown.contains("group 20050") && shown.contains("alias netrec containers.web.networks.front"),
            "{shown}"
        );
        let changed = BOTH.replace("20mbit", "30mbit").replace("10mbit", "500kbit");
        let update = "update qdisc root dev VE-WEB\nupdate qdisc root dev IF-WEB";
        becomes(lab, "other rates", &shop(&changed), update);
        lives("other rates");
        // A larger packet fits into the bucket.
        let large = shop(&changed).replace("[containers.web]", "mtu = 60000\n[containers.web]");
        let links = "update link nr-front\nupdate link VE-WEB\nupdate link VE-API\nupdate link IF-WEB";
        becomes(lab, "a larger MTU", &large, &format!("{update}\n{links}"));
        becomes(lab, "and back", &shop(&changed), &format!("{update}\n{links}"));
        becomes(
            lab,
            "one way only",
            &shop(", ingress = '30mbit'"),
            "delete qdisc ingress dev VE-WEB\ndelete qdisc root dev IF-WEB\ndelete link IF-WEB",
        );
        lives("one way only");
        becomes(
            lab,
            "the other way only",
            &shop(", egress = '30mbit'"),
            "create link IF-WEB\ncreate qdisc root dev IF-WEB\ncreate qdisc ingress dev VE-WEB\ndelete qdisc root dev VE-WEB",
        );
        lives("the other way only");
        becomes(
            lab,
            "none",
            &shop(""),
            "delete qdisc ingress dev VE-WEB\ndelete qdisc root dev IF-WEB\ndelete link IF-WEB",
        );
        lives("none");
        drop(lab.host.settle());
        assert_eq!(before.diff(&Snapshot::of_machine(&lab.host)), "");
    });
}

#[test]
fn damaged_limits_are_mended() {
    lab::in_lab(|lab| {
        let file = shop(BOTH);
        lab.host.apply(&file);
        let _web = lab.container("web").listen_tcp("web", "[::]:80");
        let shown = || {
            lab.host.sh(&named(
                "tc qdisc show dev VE-WEB; tc qdisc show dev IF-WEB; tc filter show dev VE-WEB ingress | grep -v index",
            ))
        };
        let before = shown();
        for (damage, actions) in [
            ("tc qdisc del dev VE-WEB root", "create qdisc root dev VE-WEB"),
            ("tc qdisc del dev IF-WEB root", "create qdisc root dev IF-WEB"),
            ("tc qdisc del dev VE-WEB clsact", "create qdisc ingress dev VE-WEB"),
            ("tc filter del dev VE-WEB ingress", "update qdisc ingress dev VE-WEB"),
            (
                "tc qdisc change dev VE-WEB root tbf rate 1mbit burst 16k limit 32k",
                "update qdisc root dev VE-WEB",
            ),
            ("tc qdisc change dev IF-WEB root tbf rate 10mbit burst 16k limit 32k", "update qdisc root dev IF-WEB"),
            (
                "tc qdisc del dev VE-WEB root; tc qdisc add dev VE-WEB root tbf rate 20mbit burst 25000 limit 150000",
                "replace qdisc root dev VE-WEB",
            ),
            ("tc qdisc del dev VE-WEB root; tc qdisc add dev VE-WEB root handle 6e72: htb", "replace qdisc root dev VE-WEB"),
            (
                "tc qdisc del dev VE-WEB clsact; tc qdisc add dev VE-WEB ingress",
                "replace qdisc ingress dev VE-WEB",
            ),
            ("ip link set IF-WEB down", "update link IF-WEB"),
            ("ip link set IF-WEB mtu 1400; ip link set IF-WEB alias mine", "update link IF-WEB"),
            (
                "ip link del IF-WEB",
                "create link IF-WEB\ncreate qdisc root dev IF-WEB\nupdate qdisc ingress dev VE-WEB",
            ),
            (
                "ip link del VE-WEB",
                "create link VE-WEB\ncreate address 10.20.0.10/24 dev eth0 in web\ncreate address fd20::10/64 dev eth0 in web
                create route default in web\ncreate route default (ipv6) in web
                create sysctl net/ipv6/conf/eth0/accept_ra in web
                create qdisc root dev VE-WEB\ncreate qdisc ingress dev VE-WEB",
            ),
        ] {
            mends(lab, &file, damage, actions);
            assert_eq!(shown(), before, "{damage}");
            lab.expect("api tcp 10.20.0.10:80 -> web sees 10.20.0.11\nworld tcp 192.0.2.1:8080 -> web sees 192.0.2.9");
        }
    });
}

/// The same in a container that is on a device of the host's, beside others and as a whole.
#[test]
fn damaged_limits_of_a_macvlan_are_mended() {
    lab::in_lab(|lab| {
        let shaper = veth("lan", "web").replacen("ve-", "if-", 1);
        for kind in ["bridge", "passthru"] {
            let file = format!(
                "[networks.lan]\ndriver = 'macvlan'\nparent = 'uplink'\ntype = '{kind}'\ngateway = false\n\
                 subnet = ['10.40.0.0/24', 'fd40::/64']\n[containers.web]\n\
                 networks.lan = {{ address = ['10.40.0.10', 'fd40::10'], ingress = '20mbit', egress = '10mbit' }}\n"
            );
            lab.host.apply(&file);
            let web = lab.container("web");
            let shown = || {
                let show =
                    "tc qdisc show dev eth0; tc qdisc show dev IF; tc filter show dev eth0 ingress | grep -v index";
                web.sh(&show.replace("IF", &shaper))
            };
            let before = shown();
            for (damage, actions) in [
                ("tc qdisc del dev eth0 root", "create qdisc root dev eth0 in web"),
                ("tc qdisc del dev IF root", "create qdisc root dev IF in web"),
                ("tc qdisc del dev eth0 clsact", "create qdisc ingress dev eth0 in web"),
                ("tc filter del dev eth0 ingress", "update qdisc ingress dev eth0 in web"),
                (
                    "tc qdisc change dev eth0 root tbf rate 1mbit burst 16k limit 32k",
                    "update qdisc root dev eth0 in web",
                ),
                ("tc qdisc change dev IF root tbf rate 1mbit burst 16k limit 32k", "update qdisc root dev IF in web"),
                (
                    "tc qdisc del dev eth0 root; tc qdisc add dev eth0 root handle 6e72: htb",
                    "replace qdisc root dev eth0 in web",
                ),
                (
                    "tc qdisc del dev eth0 clsact; tc qdisc add dev eth0 ingress",
                    "replace qdisc ingress dev eth0 in web",
                ),
                ("ip link set IF down", "update link IF in web"),
                ("ip link set IF mtu 1400; ip link set IF alias mine", "update link IF in web"),
                (
                    "ip link del IF",
                    "create link IF in web\ncreate qdisc root dev IF in web\nupdate qdisc ingress dev eth0 in web",
                ),
                (
                    "ip link del eth0",
                    "create link eth0 in web
                    create address 10.40.0.10/24 dev eth0 in web\ncreate address fd40::10/64 dev eth0 in web
                    create sysctl net/ipv6/conf/eth0/accept_ra in web
                    create qdisc root dev eth0 in web\ncreate qdisc ingress dev eth0 in web",
                ),
            ] {
                web.sh(&damage.replace("IF", &shaper));
                becomes(lab, &format!("{kind}: {damage}"), &file, &actions.replace("IF", &shaper));
                assert_eq!(shown(), before, "{kind}: {damage}");
            }
            lab.host.destroy(&file);
        }
    });
}

/// What is another program's on a link of netrec's is left alone as long as it is in nobody's way.
#[test]
fn disciplines_of_others_are_left_alone() {
    lab::in_lab(|lab| {
        lab.host.apply(&shop(""));
        lab.host.sh(&named(
            "tc qdisc add dev VE-WEB root tbf rate 1gbit burst 1m limit 4m; tc qdisc add dev VE-WEB clsact
            tc filter add dev VE-WEB ingress pref 7 protocol all u32 match u32 0 0 flowid 1:1",
        ));
        assert_eq!(lab.host.plan(&shop("")).actions(), [""; 0]);
        // The hook is shared, the root is not.
        becomes(
            lab,
            "both",
            &shop(BOTH),
            "create link IF-WEB\nreplace qdisc root dev VE-WEB\ncreate qdisc root dev IF-WEB
            update qdisc ingress dev VE-WEB",
        );
        let filters = lab.host.sh(&named("tc filter show dev VE-WEB ingress"));
        assert!(filters.contains("pref 7 ") && filters.contains("pref 20050 "), "{filters}");
    });
}

/// A hook without its filter is what a refusal leaves.
#[test]
fn a_hook_with_nothing_on_it_is_nobodys_unless_its_device_is_there() {
    lab::in_lab(|lab| {
        lab.host.apply(&shop(""));
        lab.host.sh(&named("tc qdisc add dev VE-WEB clsact"));
        assert_eq!(lab.host.plan(&shop("")).actions(), [""; 0]);
        lab.host.sh(&named("tc qdisc del dev VE-WEB clsact"));
        let gone = "delete qdisc ingress dev VE-WEB\ndelete qdisc root dev IF-WEB\ndelete link IF-WEB";
        lab.host.apply(&shop(", egress = '30mbit'"));
        lab.host.sh(&named("tc filter del dev VE-WEB ingress"));
        becomes(lab, "bare", &shop(""), gone);
        // What somebody has in it meanwhile stays.
        lab.host.apply(&shop(", egress = '30mbit'"));
        for way in ["ingress", "egress"] {
            lab.host.sh(&named(&format!(
                "tc filter del dev VE-WEB {way}; tc filter del dev VE-WEB ingress
                tc filter add dev VE-WEB {way} pref 7 protocol all u32 match u32 0 0 flowid 1:1"
            )));
            let (_, without) = gone.split_once('\n').expect("lines");
            becomes(lab, way, &shop(""), without);
            assert!(lab.host.sh(&named(&format!("tc filter show dev VE-WEB {way}"))).contains("pref 7 "));
            lab.host.apply(&shop(", egress = '30mbit'"));
        }
    });
}

#[test]
fn limits_go_with_what_they_are_for() {
    lab::in_lab(|lab| {
        let host = &lab.host;
        // What stays on for the whole host is on already.
        host.apply(&shop(""));
        host.destroy(&shop(""));
        drop(host.settle());
        let (empty, shop) = (Snapshot::of_machine(host), shop(BOTH));
        let gone = |what: &str| {
            drop(host.settle());
            assert_eq!(empty.diff(&Snapshot::of_machine(host)), "", "{what}");
        };
        host.apply(&shop);
        host.destroy(&shop);
        gone("destroyed");
        // A death at any write leaves nothing that the next run does not find.
        for fault in ["die:20", "die:40", "die:60"] {
            let file = host.write("netrec.toml", &shop);
            host.netrec_with_env(&[("NETREC_FAULT", fault)], &["-c", &file, "apply", "-y"]);
            host.apply(&shop);
            assert_same::<String, _>(fault, &[], &host.plan(&shop).actions());
            host.destroy(&shop);
            gone(fault);
        }
    });
}

/// A TCP connection that is as fast as it can be.
struct Stream {
    received: Arc<AtomicU64>,
    socket: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn between(from: &Space, to: &Space, at: &str) -> Self {
        let at: SocketAddr = at.parse().expect("ADDRESS:PORT");
        let listener = to.enter(|| TcpListener::bind(at)).expect("a listener");
        let socket = from.enter(|| TcpStream::connect(at)).expect("a connection");
        let (mut far, _) = listener.accept().expect("a connection");
        let received = Arc::new(AtomicU64::new(0));
        let (count, mut sender) = (received.clone(), socket.try_clone().expect("a descriptor"));
        let reads = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = far.read(&mut buffer) {
                count.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        let writes = thread::spawn(move || {
            let bytes = vec![0; 1 << 16];
            while sender.write_all(&bytes).is_ok() {}
        });
        Self { received, socket, threads: vec![reads, writes] }
    }

    /// Bits per second of payload, over a time after the beginning.
    fn rate(&self, wait: Duration, window: Duration) -> f64 {
        thread::sleep(wait);
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        thread::sleep(window);
        let bytes = self.received.load(Ordering::Relaxed) - before;
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let bits = bytes as f64 * 8.0;
        bits / start.elapsed().as_secs_f64()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        self.threads.drain(..).for_each(|thread| thread.join().expect("its end"));
    }
}

/// What TCP carries of what its packets take up: 1448 bytes of 1514.
const PAYLOAD: f64 = 1448.0 / 1514.0;

fn measure(what: &str, stream: &Stream, megabits: f64, window: Duration, tolerance: f64) -> f64 {
    let found = stream.rate(Duration::from_secs(1), window) / 1e6;
    let share = found / PAYLOAD / megabits;
    assert!((share - 1.0).abs() < tolerance, "{what} at {megabits} Mbit/s: {found:.2} Mbit/s of payload");
    found
}

/// Far from the limits of the machine, and with room for what else it does.
#[test]
fn both_ways_are_as_fast_as_the_file_says_and_change_under_a_living_connection() {
    lab::in_lab(|lab| {
        let file = |ingress: u32, egress: u32| shop(&format!(", ingress = '{ingress}mbit', egress = '{egress}mbit'"));
        let window = Duration::from_secs(3);
        lab.host.apply(&file(40, 20));
        let (web, api) = (lab.container("web"), lab.container("api"));
        let into = Stream::between(&api, &web, "10.20.0.10:99");
        measure("ingress", &into, 40.0, window, 0.2);
        lab.host.apply(&file(10, 20));
        measure("ingress, changed", &into, 10.0, window, 0.2);
        drop(into);
        let out = Stream::between(&web, &api, "[fd20::11]:99");
        measure("egress", &out, 20.0, window, 0.2);
        lab.host.apply(&file(10, 40));
        measure("egress, changed", &out, 40.0, window, 0.2);
        // Without limits it is as fast as the machine.
        lab.host.apply(&shop(""));
        let found = out.rate(Duration::from_millis(200), Duration::from_secs(1)) / 1e6;
        assert!(found > 100.0, "{found:.2} Mbit/s without a limit");
    });
}

/// `make rates`: the sweep, on a machine that does nothing else. Else one rate, to see that it works.
#[test]
fn rates_are_kept_within_ten_percent() {
    lab::in_lab(|lab| {
        let sweep = std::env::var_os("NETREC_RATES").is_some();
        let (rates, window, tolerance) = if sweep { (&[1, 5, 50, 500, 1000][..], 8, 0.1) } else { (&[5][..], 3, 0.2) };
        let window = Duration::from_secs(window);
        // On a veth the host's end limits what comes in, on a macvlan the container's own device both.
        for (driver, rate) in
            ["bridge", "macvlan"].into_iter().flat_map(|driver| rates.iter().map(move |r| (driver, r)))
        {
            let rate = *rate;
            let file = shop(&format!(", ingress = '{rate}mbit', egress = '{rate}mbit'"));
            lab.host.apply(&match driver {
                "macvlan" => file
                    .replace("[networks.front]\n", "[networks.front]\ndriver = 'macvlan'\nparent = 'uplink'\n")
                    .replace("ports = ['8080:80']\n", ""),
                _ => file,
            });
            let (web, api) = (lab.container("web"), lab.container("api"));
            for (what, from, to, at) in
                [("ingress", &api, &web, "10.20.0.10:99"), ("egress", &web, &api, "10.20.0.11:99")]
            {
                let stream = Stream::between(from, to, at);
                let found = measure(&format!("{driver}: {what}"), &stream, f64::from(rate), window, tolerance);
                #[allow(clippy::print_stdout)] // figures are asked for
                if sweep {
                    println!(
                        "\ntried: {driver}, {what} of {rate} Mbit/s: {found:.3} Mbit/s of payload, {:.3} with headers",
                        found / PAYLOAD
                    );
                }
            }
        }
    });
}
