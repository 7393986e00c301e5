//! Who may talk to whom: every row of the table in `docs/firewall.md` between networks of every mode, by both families and
//! every protocol, with bridged packets passing the firewall (`bridge-nf-call-*` 1) and not (0), tried with real packets.
//!
//! A sample runs by itself: of every row, protocol, family and outcome some. `NETREC_MATRIX=all` (`make matrix`) tries all.
//! What this table says is written down here once more, from the contract and not from netrec's code.

#![allow(clippy::expect_used)] // helpers of tests are tests too

#[path = "../lab/mod.rs"]
mod lab;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::lab::{Lab, Listener, Space};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Nat,
    Routed,
    Internal,
    Isolated,
}

impl Mode {
    fn passes(self) -> bool {
        matches!(self, Self::Nat | Self::Routed)
    }
}

/// A network with two containers, `NAMEa` and `NAMEb`, with ports 80 (published where anything passes) and 81 open.
#[derive(Clone, Copy, Debug)]
struct Net {
    name: &'static str,
    /// Its subnets are 10.NUMBER.0.0/24 and fdNUMBER::/64.
    number: u8,
    modes: [Mode; 2],
    icc: bool,
    /// Whether what leaves it has the host's second addresses.
    snat: bool,
}

const NETS: [Net; 12] = {
    use Mode::{Internal, Isolated, Nat, Routed};
    const fn net(name: &'static str, number: u8, modes: [Mode; 2]) -> Net {
        Net { name, number, modes, icc: true, snat: false }
    }
    [
        net("nata", 31, [Nat, Nat]),
        Net { snat: true, ..net("natb", 32, [Nat, Nat]) },
        Net { icc: false, ..net("natc", 33, [Nat, Nat]) },
        net("roua", 41, [Routed, Routed]),
        net("roub", 42, [Routed, Routed]),
        Net { icc: false, ..net("rouc", 43, [Routed, Routed]) },
        net("inta", 51, [Internal, Internal]),
        net("intb", 52, [Internal, Internal]),
        net("isoa", 61, [Isolated, Isolated]),
        net("isob", 62, [Isolated, Isolated]),
        net("mixa", 71, [Nat, Routed]),
        net("mixb", 72, [Isolated, Nat]),
    ]
};

const WORLD: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const HOST_TOO: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

impl Net {
    fn mode(&self, ipv6: bool) -> Mode {
        self.modes[usize::from(ipv6)]
    }

    fn address(&self, ipv6: bool, last: u8) -> String {
        if ipv6 { format!("fd{}::{last}", self.number) } else { format!("10.{}.0.{last}", self.number) }
    }

    fn gateway(&self, ipv6: bool) -> String {
        self.address(ipv6, 1)
    }

    /// The address of its first (`a`) or second container.
    fn of(&self, which: char, ipv6: bool) -> String {
        self.address(ipv6, if which == 'a' { 10 } else { 11 })
    }

    fn container(&self, which: char) -> String {
        format!("{}{which}", self.name)
    }

    /// The host's port that leads to port 80 of `NAMEa`.
    fn port(&self) -> u16 {
        10_000 + u16::from(self.number)
    }

    /// The host's port on 127.0.0.1 alone that leads there.
    fn loopback_port(&self) -> u16 {
        20_000 + u16::from(self.number)
    }

    /// The source address of one of its containers in the world.
    fn outside(&self, which: char, ipv6: bool) -> String {
        match self.mode(ipv6) {
            Mode::Nat if self.snat => HOST_TOO[usize::from(ipv6)].to_owned(),
            Mode::Nat => HOST[usize::from(ipv6)].to_owned(),
            _ => self.of(which, ipv6),
        }
    }

    /// Its source address on another network.
    fn elsewhere(&self, which: char, on: &Self, ipv6: bool) -> String {
        match self.mode(ipv6) {
            Mode::Nat if !self.snat => on.gateway(ipv6),
            _ => self.outside(which, ipv6),
        }
    }

    fn toml(&self) -> String {
        let [ipv4, ipv6] = self.modes.map(|mode| format!("{mode:?}").to_lowercase());
        let mode = if self.modes[0] == Mode::Internal {
            "internal = true".to_owned()
        } else {
            format!("mode = {{ ipv4 = '{ipv4}', ipv6 = '{ipv6}' }}")
        };
        let number = self.number;
        let mut text = format!(
            "[networks.{}]\nsubnet = ['10.{number}.0.0/24', 'fd{number}::/64']\n{mode}\nicc = {}\n",
            self.name, self.icc
        );
        if self.snat {
            text += &format!("snat = ['{}', '{}']\n", HOST_TOO[0], HOST_TOO[1]);
        }
        for which in ['a', 'b'] {
            let addresses = format!("['{}', '{}']", self.of(which, false), self.of(which, true));
            text += &format!("[containers.{}]\n", self.container(which));
            text += &format!("networks.{} = {{ address = {addresses} }}\n", self.name);
            if which == 'a' && self.modes.into_iter().any(Mode::passes) {
                let routed = self.modes == [Mode::Routed; 2];
                let port = if routed { 80 } else { self.port() };
                text += &format!("ports = ['{port}:80', '{port}:80/udp', '{port}:80/sctp'");
                if self.modes[0] == Mode::Nat {
                    text += &format!(", '127.0.0.1:{0}:80', '127.0.0.1:{0}:80/udp'", self.loopback_port());
                }
                text += "]\n";
            }
        }
        text
    }
}

/// What must come of a try.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Want {
    /// Somebody answers, and saw this source address.
    Sees(String, String),
    /// The ping is answered.
    Answer,
    /// Nothing comes back, but for a refusal.
    Nothing,
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sees(name, seen) => write!(f, "{name} sees {seen}"),
            Self::Answer => f.write_str("answer"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

#[derive(Clone, Debug)]
struct Cell {
    row: &'static str,
    from: String,
    how: &'static str,
    ipv6: bool,
    to: String,
    want: Want,
}

impl Cell {
    fn run(&self, lab: &Lab) -> String {
        let from = lab.space(&self.from);
        let reply = match self.how {
            "tcp" => from.tcp(&self.to),
            "udp" => from.udp(&self.to),
            "sctp" => from.sctp(&self.to),
            _ => return from.ping(&self.to).map_or_else(|_| "nothing".into(), |()| "answer".into()),
        };
        reply.map_or_else(|_| "nothing".into(), |answer| answer.to_string())
    }
}

impl Cell {
    /// Whether either end is an isolated container.
    fn isolated(&self) -> bool {
        let of = |net: &&Net| net.mode(self.ipv6) == Mode::Isolated;
        let to =
            |net: &Net| self.to.trim_start_matches('[').starts_with(net.address(self.ipv6, 1).trim_end_matches('1'));
        NETS.iter().filter(of).any(|net| self.from.starts_with(net.name) || to(net))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {} {}", self.row, self.from, self.how, self.to)
    }
}

/// Makes the cells of one family.
struct Table {
    ipv6: bool,
    cells: Vec<Cell>,
}

const WITH_PORTS: [&str; 3] = ["tcp", "udp", "sctp"];
/// The host's own services: SCTP by hand cannot choose the address that it answers by.
const OF_HOST: [&str; 2] = ["tcp", "udp"];

impl Table {
    fn add(&mut self, row: &'static str, from: &str, how: &'static str, to: String, want: Want) {
        self.cells.push(Cell { row, from: from.to_owned(), how, ipv6: self.ipv6, to, want });
    }

    fn try_port(&mut self, row: &'static str, from: &str, hows: &[&'static str], to: (&str, u16), want: &Want) {
        let (address, port) = to;
        let target = if self.ipv6 { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
        for how in hows {
            self.add(row, from, how, target.clone(), want.clone());
        }
    }

    fn try_ping(&mut self, row: &'static str, from: &str, to: &str, answers: bool) {
        self.add(row, from, "ping", to.to_owned(), if answers { Want::Answer } else { Want::Nothing });
    }

    fn all(mut self) -> Vec<Cell> {
        for x in &NETS {
            self.within(x);
            for y in &NETS {
                if x.name != y.name {
                    self.across(x, y);
                }
                self.published(x, y);
            }
            self.out(x);
            self.inward(x);
            self.of_host(x);
        }
        self.cells
    }

    fn within(&mut self, x: &Net) {
        let ipv6 = self.ipv6;
        let (from, to) = (x.container('b'), x.of('a', ipv6));
        let want = if x.icc { Want::Sees(x.container('a'), x.of('b', ipv6)) } else { Want::Nothing };
        for port in [80, 81] {
            self.try_port("same network", &from, &WITH_PORTS, (&to, port), &want);
        }
        self.try_ping("same network", &from, &to, x.icc);
    }

    fn across(&mut self, x: &Net, y: &Net) {
        let ipv6 = self.ipv6;
        let (from, to) = (x.container('a'), y.of('a', ipv6));
        let open = x.mode(ipv6).passes() && y.mode(ipv6) == Mode::Routed;
        let sees = Want::Sees(y.container('a'), x.elsewhere('a', y, ipv6));
        let row = "another network's container";
        self.try_port(row, &from, &WITH_PORTS, (&to, 80), if open { &sees } else { &Want::Nothing });
        self.try_port(row, &from, &WITH_PORTS, (&to, 81), &Want::Nothing);
        self.try_ping(row, &from, &to, open);
    }

    /// A published port by the host's addresses: the uplink's, the target's gateway and the own one.
    fn published(&mut self, x: &Net, y: &Net) {
        let ipv6 = self.ipv6;
        if y.mode(ipv6) != Mode::Nat {
            return;
        }
        let mut addresses = vec![HOST[usize::from(ipv6)].to_owned(), y.gateway(ipv6)];
        if x.name != y.name && x.mode(ipv6) != Mode::Isolated {
            addresses.push(x.gateway(ipv6));
        }
        for from in if x.name == y.name { vec!['a', 'b'] } else { vec!['a'] } {
            let seen = if x.name == y.name { y.gateway(ipv6) } else { x.elsewhere(from, y, ipv6) };
            let want = if x.mode(ipv6).passes() { Want::Sees(y.container('a'), seen) } else { Want::Nothing };
            for address in &addresses {
                let to = (address.as_str(), y.port());
                self.try_port("a published port", &x.container(from), &WITH_PORTS, to, &want);
            }
            if !ipv6 {
                let to = (HOST[0], y.loopback_port());
                self.try_port(
                    "a port of 127.0.0.1 by another address",
                    &x.container(from),
                    &OF_HOST,
                    to,
                    &Want::Nothing,
                );
            }
        }
    }

    /// The world and the host's services.
    fn out(&mut self, x: &Net) {
        let ipv6 = self.ipv6;
        let (from, mode) = (x.container('a'), x.mode(ipv6));
        let if_so = |so: bool, name: &str, seen: String| {
            if so { Want::Sees(name.to_owned(), seen) } else { Want::Nothing }
        };
        let world = WORLD[usize::from(ipv6)];
        let want = if_so(mode.passes(), "world", x.outside('a', ipv6));
        self.try_port("the world", &from, &WITH_PORTS, (world, 443), &want);
        self.try_ping("the world", &from, world, mode.passes());
        if mode != Mode::Isolated {
            let gateway = x.gateway(ipv6);
            let want = if_so(true, "host", x.of('a', ipv6));
            self.try_port("the host by the gateway", &from, &OF_HOST, (&gateway, 7000), &want);
            self.try_ping("the host by the gateway", &from, &gateway, true);
        }
        let other = NETS.iter().find(|n| n.name != x.name && n.mode(ipv6) != Mode::Isolated).expect("another");
        for address in [HOST[usize::from(ipv6)].to_owned(), other.gateway(ipv6)] {
            let want = if_so(mode.passes(), "host", x.of('a', ipv6));
            self.try_port("the host by another address", &from, &OF_HOST, (&address, 7000), &want);
            self.try_ping("the host by another address", &from, &address, mode.passes());
        }
    }

    fn inward(&mut self, y: &Net) {
        let ipv6 = self.ipv6;
        let (world, host) = (WORLD[usize::from(ipv6)], HOST[usize::from(ipv6)]);
        let (mode, to) = (y.mode(ipv6), y.of('a', ipv6));
        let sees = Want::Sees(y.container('a'), world.to_owned());
        let if_so = |so: bool| if so { sees.clone() } else { Want::Nothing };
        if mode != Mode::Isolated {
            let gateway = y.gateway(ipv6);
            self.try_port("the world to the host by a gateway", "world", &OF_HOST, (&gateway, 7000), &Want::Nothing);
            self.try_ping("the world to the host by a gateway", "world", &gateway, false);
        }
        self.try_port(
            "the world to a published port",
            "world",
            &WITH_PORTS,
            (host, y.port()),
            &if_so(mode == Mode::Nat),
        );
        let row = "the world to a container";
        self.try_port(row, "world", &WITH_PORTS, (&to, 80), &if_so(mode == Mode::Routed));
        self.try_port(row, "world", &WITH_PORTS, (&to, 81), &Want::Nothing);
        self.try_ping(row, "world", &to, mode == Mode::Routed);
        if !ipv6 {
            let to = (host, y.loopback_port());
            self.try_port("a port of 127.0.0.1 by another address", "world", &OF_HOST, to, &Want::Nothing);
        }
    }

    fn of_host(&mut self, y: &Net) {
        let ipv6 = self.ipv6;
        let (mode, to, gateway) = (y.mode(ipv6), y.of('a', ipv6), y.gateway(ipv6));
        let sees = |seen: &str| Want::Sees(y.container('a'), seen.to_owned());
        let want = if mode == Mode::Isolated { Want::Nothing } else { sees(&gateway) };
        for port in [80, 81] {
            self.try_port("the host to a container", "host", &WITH_PORTS, (&to, port), &want);
        }
        self.try_ping("the host to a container", "host", &to, mode != Mode::Isolated);
        if mode == Mode::Nat {
            let row = "the host to a published port";
            let host = HOST[usize::from(ipv6)];
            self.try_port(row, "host", &WITH_PORTS, (host, y.port()), &sees(host));
            if !ipv6 {
                self.try_port(row, "host", &WITH_PORTS, ("127.0.0.1", y.port()), &sees(&gateway));
                self.try_port(row, "host", &OF_HOST, ("127.0.0.1", y.loopback_port()), &sees(&gateway));
            }
        }
    }
}

/// Of every row, way, family and outcome the first, and an eighth of the rest.
fn sample(cells: Vec<Cell>) -> Vec<Cell> {
    if std::env::var("NETREC_MATRIX").is_ok_and(|all| all == "all") {
        return cells;
    }
    let mut seen = HashSet::new();
    let chosen = |(i, cell): &(usize, Cell)| {
        let first = seen.insert((cell.row, cell.how, cell.ipv6, std::mem::discriminant(&cell.want)));
        first || i % 8 == 0
    };
    let mut chosen = chosen;
    cells.into_iter().enumerate().filter(|cell| chosen(cell)).map(|(_, cell)| cell).collect()
}

/// Tries cells, so many at once, and says which came out otherwise.
fn run(lab: &Lab, cells: &[Cell], at_once: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let mut wrong: Vec<(usize, String)> = thread::scope(|s| {
        let worker = || {
            let mut wrong = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(cell) = cells.get(index) else { break wrong };
                let came = cell.run(lab);
                if came != cell.want.to_string() {
                    wrong.push((index, format!("{cell}: expected {}, and it was {came}", cell.want)));
                }
            }
        };
        let workers: Vec<_> = (0..at_once.min(cells.len())).map(|_| s.spawn(worker)).collect();
        let done = workers.into_iter().map(|w| w.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        done.flatten().collect()
    });
    wrong.sort();
    wrong.into_iter().map(|(_, text)| text).collect()
}

fn listen(space: &Space, ports: &[u16]) -> Vec<Listener> {
    let name = space.name();
    let of = |port: &u16| {
        let at = format!("[::]:{port}");
        let mut all = space.listen_sctp(name, *port);
        all.extend([space.listen_tcp(name, &at), space.listen_udp(name, &at)]);
        all
    };
    ports.iter().flat_map(of).collect()
}

/// Everything listens: containers, the world, and the host at each of its addresses.
fn listeners(lab: &Lab) -> Vec<Listener> {
    let mut all = listen(&lab.world, &[443]);
    for net in &NETS {
        for which in ['a', 'b'] {
            all.extend(listen(&lab.container(&net.container(which)), &[80, 81]));
        }
    }
    all.push(lab.host.listen_tcp("host", "[::]:7000"));
    for ipv6 in [false, true] {
        let gateways = NETS.iter().filter(|n| n.mode(ipv6) != Mode::Isolated).map(|n| n.gateway(ipv6));
        for address in gateways.chain([HOST[usize::from(ipv6)].to_owned()]) {
            let at = if ipv6 { format!("[{address}]:7000") } else { format!("{address}:7000") };
            all.push(lab.host.listen_udp("host", &at));
        }
    }
    all.extend([lab.host.listen_tcp("host", "127.0.0.1:7001"), lab.host.listen_udp("host", "127.0.0.1:7001")]);
    all
}

/// Containers that have no way out are given one, by the bridge's Ethernet address, so that it is a rule that stops them.
fn force_ways_out(lab: &Lab) {
    for net in &NETS {
        let mac = mac(&lab.host, &format!("nr-{}", net.name));
        for which in ['a', 'b'] {
            let space = lab.container(&net.container(which));
            for ipv6 in [false, true].into_iter().filter(|ipv6| !net.mode(*ipv6).passes()) {
                let family = if ipv6 { "-6" } else { "-4" };
                let via = net.address(ipv6, 200);
                space.run(["ip", family, "neigh", "replace", &via, "lladdr", &mac, "dev", "eth0"]);
                space.run(["ip", family, "route", "add", "default", "via", &via, "dev", "eth0", "onlink"]);
            }
        }
    }
}

fn matrix(lab: &Lab, bridge_nf: &str) {
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        lab.host.set_sysctl(&format!("net/bridge/{name}"), bridge_nf);
    }
    let file: String = NETS.iter().map(Net::toml).collect();
    lab.host.apply(&file);
    drop(lab.host.settle());
    let listeners = listeners(lab);
    force_ways_out(lab);

    let all: Vec<Cell> = [false, true].into_iter().flat_map(|ipv6| Table { ipv6, cells: Vec::new() }.all()).collect();
    let total = all.len();
    let cells = sample(all);
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for cell in &cells {
        *count.entry(cell.row).or_default() += 1;
    }
    // What is answered is so at once; for what is not, many can wait together.
    let (silent, answered): (Vec<Cell>, Vec<Cell>) = cells.into_iter().partition(|cell| cell.want == Want::Nothing);
    let mut wrong = run(lab, &answered, 8);
    wrong.extend(run(lab, &silent, 250));
    force_ways_back(lab);
    let isolated = |cell: &&Cell| cell.from != "host" && cell.isolated();
    let again: Vec<Cell> = silent.iter().filter(isolated).cloned().collect();
    wrong.extend(run(lab, &again, 250));

    let around = around(lab);
    wrong.extend(run(lab, &around, 50));
    // Each takes a while to notice.
    thread::scope(|s| listeners.into_iter().for_each(|listener| drop(s.spawn(|| drop(listener)))));
    *count.entry("ways around").or_default() += around.len();
    report(&format!(
        "bridge-nf-call {bridge_nf}: {} of {} cells tried, {} of them answered: {count:?}",
        answered.len() + silent.len() + around.len(),
        total + around.len(),
        answered.len()
    ));
    assert!(wrong.is_empty(), "bridge-nf-call {bridge_nf}: {} cells\n{}", wrong.len(), wrong.join("\n"));
}

/// Appends a line to the file that `NETREC_MATRIX_REPORT` names; what a test that passes prints is not seen.
fn report(line: &str) {
    if let Some(path) = std::env::var_os("NETREC_MATRIX_REPORT") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the report");
    }
}

/// The host is told the way to isolated containers, so that they would get an answer if their packets came through.
fn force_ways_back(lab: &Lab) {
    for net in &NETS {
        for ipv6 in [false, true].into_iter().filter(|ipv6| net.mode(*ipv6) == Mode::Isolated) {
            let (family, bridge) = (if ipv6 { "-6" } else { "-4" }, format!("nr-{}", net.name));
            let subnet = if ipv6 { format!("fd{}::/64", net.number) } else { format!("10.{}.0.0/24", net.number) };
            lab.host.run(["ip", family, "route", "add", &subnet, "dev", &bridge]);
            for which in ['a', 'b'] {
                let mac = mac(&lab.container(&net.container(which)), "eth0");
                lab.host.run(["ip", family, "neigh", "add", &net.of(which, ipv6), "lladdr", &mac, "dev", &bridge]);
            }
        }
    }
}

fn mac(space: &Space, device: &str) -> String {
    let link = space.run(["ip", "-j", "link", "show", "dev", device]);
    let link: serde_json::Value = serde_json::from_str(&link).expect("JSON");
    link[0]["address"].as_str().expect("an address").to_owned()
}

/// Ways around the rules: to a neighbour by the gateway with a route of one's own, and to 127/8 by routing it to the host.
fn around(lab: &Lab) -> Vec<Cell> {
    let mut cells = Vec::new();
    for net in NETS.iter().filter(|n| !n.icc) {
        let from = net.container('b');
        for ipv6 in [false, true] {
            let (to, gateway) = (net.of('a', ipv6), net.gateway(ipv6));
            let host_route = format!("{to}/{}", if ipv6 { 128 } else { 32 });
            let family = if ipv6 { "-6" } else { "-4" };
            lab.container(&from).run(["ip", family, "route", "add", &host_route, "via", &gateway]);
            let mut table = Table { ipv6, cells: Vec::new() };
            let row = "a neighbour by the gateway, where icc is off";
            table.try_port(row, &from, &WITH_PORTS, (&to, 80), &Want::Nothing);
            table.try_ping(row, &from, &to, false);
            cells.extend(table.cells);
        }
    }
    let mut table = Table { ipv6: false, cells: Vec::new() };
    for (space, name, device, gateway) in [
        ((*lab.world).clone(), "world".to_owned(), "w0", HOST[0].to_owned()),
        (lab.container("natab"), "natab".to_owned(), "eth0", NETS[0].gateway(false)),
        (lab.container("rouab"), "rouab".to_owned(), "eth0", NETS[3].gateway(false)),
    ] {
        space.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"]);
        space.set_sysctl(&format!("net/ipv4/conf/{device}/route_localnet"), "1");
        space.run(["ip", "route", "add", "127.0.0.0/8", "via", &gateway]);
        for port in [NETS[0].port(), NETS[0].loopback_port(), 7001] {
            table.try_port("127/8 by the host", &name, &OF_HOST, ("127.0.0.1", port), &Want::Nothing);
        }
    }
    for device in ["uplink", "nr-roua"] {
        lab.host.set_sysctl(&format!("net/ipv4/conf/{device}/route_localnet"), "1");
    }
    cells.extend(table.cells);
    cells
}

#[test]
fn who_may_talk_to_whom_with_bridge_nf_off() {
    lab::in_lab(|lab| matrix(lab, "0"));
}

#[test]
fn who_may_talk_to_whom_with_bridge_nf_on() {
    lab::in_lab(|lab| matrix(lab, "1"));
}
