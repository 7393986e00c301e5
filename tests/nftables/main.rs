//! The firewall's reader and writer against the kernel, with `nft` as the independent witness. Every test has a network
//! namespace of its own; without root, in a user namespace of its own too.

// Clippy does not take the helpers of tests for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::unnecessary_wraps, clippy::format_push_string)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use netrec::kernel::fault::Writes;
use netrec::kernel::nftables::Firewall;
use netrec::state::firewall::{
    BaseChain, CT_ESTABLISHED_RELATED, CT_STATUS_DNAT, Chain, ChainKind, Concat, DataType, Datum, Element, ElementData,
    Expr, Family, Field, Hook, PRIORITY_MANGLE, Policy, RTN_LOCAL, Rule, Set, SetData, TCP_SYN, Table, Verdict,
};
use netrec::state::{Entry, Key, Object, Owner, Standing, State, Step};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

const INSIDE: &str = "NETREC_TEST_INSIDE";

/// Runs a test in a network namespace of its own. Without root the test's own binary is run again by `unshare -Urn`, for
/// a process with threads cannot enter a user namespace.
fn isolated(name: &str, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        test();
    } else if nix::unistd::geteuid().is_root() {
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    } else {
        // The harness leaves out the name of the crate.
        again(name.split_once("::").unwrap().1, &["-Urn"], (INSIDE, "1"));
    }
}

/// Runs a test again, in namespaces that `unshare` makes and with one more variable in its environment.
fn again(name: &str, namespaces: &[&str], variable: (&str, &str)) {
    let mut again = Command::new("unshare");
    again.args(namespaces).arg("--").arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output = again.env(INSIDE, "1").env(variable.0, variable.1).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

macro_rules! isolated {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $(
            $(#[$attribute])*
            #[test]
            fn $name() {
                fn inside() $body
                isolated(concat!(module_path!(), "::", stringify!($name)), inside);
            }
        )*
    };
}

// After the macro that they use.
mod changes;
mod clamp;
mod everything;
mod failures;
mod flows;
mod foreign;
mod others;
mod packets;
mod size;

/// Runs `nft` on a script; its output.
fn nft(script: &str) -> String {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn listing() -> String {
    nft("list table inet netrec")
}

fn owner(path: &str) -> Owner {
    Owner::new(path)
}

fn table() -> (Key, Entry) {
    (Key::Table, Entry::new(Object::Table(Table::default()), Owner::netrec()))
}

fn set(name: &str, key: &[DataType], data: Option<SetData>) -> (Key, Entry) {
    (
        Key::Set { name: name.into() },
        Entry::new(Object::Set(Set { key: key.to_vec(), data, counted: false }), Owner::netrec()),
    )
}

fn values(types: &[DataType]) -> Option<SetData> {
    Some(SetData::Values(types.to_vec()))
}

fn chain(name: &str, base: Option<BaseChain>, rules: Vec<Vec<Expr>>) -> (Key, Entry) {
    let chain = Chain { base, rules: rules.into_iter().map(Rule).collect() };
    (Key::Chain { name: name.into() }, Entry::new(Object::Chain(chain), owner("networks.front")))
}

fn element(set: &str, key: Vec<Datum>, data: Option<ElementData>, path: &str) -> (Key, Entry) {
    let key = Key::Element { set: set.into(), key: Concat(key) };
    (key, Entry::new(Object::Element(Element { data }), owner(path)))
}

fn verdict(set: &str, key: Vec<Datum>, verdict: Verdict) -> (Key, Entry) {
    element(set, key, Some(ElementData::Verdict(verdict)), "networks.front")
}

fn to(values: Vec<Datum>) -> Option<ElementData> {
    Some(ElementData::Values(Concat(values)))
}

fn ip4(text: &str) -> Datum {
    Datum::Ipv4Addr(text.parse().unwrap())
}

fn ip6(text: &str) -> Datum {
    Datum::Ipv6Addr(text.parse().unwrap())
}

fn ifname(text: &str) -> Datum {
    Datum::Ifname(text.parse().unwrap())
}

fn is(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: false, value }
}

fn is_not(field: Field, value: Datum) -> Expr {
    Expr::Match { field, negate: true, value }
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority, policy: Policy::Accept })
}

const TCP: Datum = Datum::InetProto(6);
const UDP: Datum = Datum::InetProto(17);
const ACCEPT: Expr = Expr::Verdict(Verdict::Accept);
const DROP: Expr = Expr::Verdict(Verdict::Drop);

fn port(port: u16) -> Datum {
    Datum::InetService(port)
}

fn create(entries: &[(Key, Entry)]) -> Vec<Step> {
    entries.iter().map(|(key, entry)| Step::new(key.clone(), None, Some(entry.clone()))).collect()
}

fn delete(entries: &[(Key, Entry)]) -> Vec<Step> {
    entries.iter().map(|(key, entry)| Step::new(key.clone(), Some(entry.clone()), None)).collect()
}

fn change((key, before): &(Key, Entry), after: Entry) -> Step {
    Step::new(key.clone(), Some(before.clone()), Some(after))
}

fn inverse(steps: &[Step]) -> Vec<Step> {
    steps.iter().map(|s| Step::new(s.key.clone(), s.after.clone(), s.before.clone())).collect()
}

fn run(firewall: &mut Firewall, steps: &[Step]) {
    firewall.run(steps, &mut Writes::new()).unwrap();
}

fn read(firewall: &mut Firewall) -> State {
    let entries = firewall.read().unwrap();
    let count = entries.len();
    let state = State::from_iter(entries);
    assert_eq!(state.len(), count, "no key twice");
    state
}

fn state(entries: &[(Key, Entry)]) -> State {
    entries.iter().cloned().collect()
}
/// The kernel lists the elements of a hash table in no order.
fn sorted_elements(listing: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut elements: Vec<String> = Vec::new();
    for line in listing.lines() {
        let text = line.trim_start();
        let text = text.strip_prefix("elements = {").unwrap_or(text).trim_start();
        if line.contains("elements = {") || line.starts_with("\t\t\t") {
            elements.push(text.trim_end_matches([' ', '}', ',']).to_owned());
        } else {
            elements.sort();
            lines.append(&mut elements);
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// As many elements as one transaction may have: the one of a user namespace's root has to fit into a buffer that the
/// host's settings limit.
fn most(elements: u16) -> u16 {
    let inside = std::env::var_os(INSIDE).is_some();
    if inside { elements.min(3_000) } else { elements }
}

/// A small firewall: a map of ports and the chain that uses it.
fn small() -> Vec<(Key, Entry)> {
    use DataType::{InetProto, InetService, Ipv4Addr};
    let dnat = Expr::DnatMap {
        family: Family::Ipv4,
        fields: vec![Field::L4Proto, Field::ThDport],
        map: name("any4"),
        keep_port: false,
    };
    vec![
        table(),
        set("any4", &[InetProto, InetService], values(&[Ipv4Addr, InetService])),
        set("from", &[DataType::Ifname], Some(SetData::Verdict)),
        chain(
            "forward",
            base(ChainKind::Filter, Hook::Forward, 0),
            vec![vec![Expr::Vmap { fields: vec![Field::Iifname], map: name("from") }]],
        ),
        chain("pre", base(ChainKind::Nat, Hook::Prerouting, -100), vec![vec![dnat]]),
        chain("sub", None, vec![vec![DROP]]),
        element("any4", vec![TCP, port(8080)], to(vec![ip4("10.1.0.2"), port(80)]), "containers.web.ports[0]"),
        element("any4", vec![TCP, port(8081)], to(vec![ip4("10.1.0.2"), port(81)]), "containers.web.ports[1]"),
        verdict("from", vec![ifname("br0")], Verdict::Jump(name("sub"))),
    ]
}

fn find<'a>(entries: &'a [(Key, Entry)], wanted: &str) -> &'a (Key, Entry) {
    entries.iter().find(|(key, _)| key.to_string() == wanted).unwrap()
}

fn put(entries: &mut [(Key, Entry)], wanted: &str, entry: &Entry) {
    entries.iter_mut().find(|(key, _)| key.to_string() == wanted).unwrap().1 = entry.clone();
}
