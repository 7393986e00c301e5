//! Pieces and peers of every sort of store: none is given twice, and nothing of another's is touched.

use std::path::PathBuf;

use super::super::flannel::{configuration, key, read_configuration, value};
use super::*;
use crate::state::ClusterNetwork;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

/// A network of 62 pieces that may be leased of IPv4, and of IPv6 where it has some.
fn cluster(ipv6: bool) -> Cluster {
    Cluster {
        etcd: vec!["http://127.0.0.1:2379".into()],
        prefix: "/net".into(),
        ca: None,
        identity: None,
        user: None,
        public: Vec::new(),
        pieces: Vec::new(),
        subnet_env: None::<PathBuf>,
        network: ClusterNetwork {
            name: "wide".parse().unwrap(),
            subnets: [Some(net("10.5.0.0/18")), ipv6.then(|| net("fc00::/58"))],
            lengths: [24, 64],
            backend: ClusterBackend::Vxlan { vni: 1, port: 8472 },
        },
    }
}

fn pools(cluster: &Cluster) -> Pools {
    read_configuration(configuration(cluster).as_bytes(), cluster).unwrap()
}

fn own(cluster: &Cluster, number: u8, before: &[&[&str]]) -> Own {
    let mut addresses = vec![IpAddr::from([192, 0, 2, number])];
    if cluster.has_family(true) {
        addresses.push(format!("2001:db8::{number:x}").parse().unwrap());
    }
    let before = before.iter().map(|pieces| pieces.iter().map(|piece| net(piece)).collect()).collect();
    Own { addresses, before, ..Own::default() }
}

/// etcd, as far as it decides.
#[derive(Default)]
struct Store {
    revision: i64,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Store {
    fn list(&self) -> (i64, Vec<Entry>) {
        (self.revision, self.entries.values().cloned().collect())
    }

    fn write(&mut self, key: &[u8], value: &str, lease: i64) {
        self.revision += 1;
        let created = self.entries.get(key).map_or(self.revision, |entry| entry.created);
        let entry =
            Entry { key: key.to_vec(), value: value.as_bytes().to_vec(), created, modified: self.revision, lease };
        self.entries.insert(key.to_vec(), entry);
    }

    /// Carries out a choice that was made of what there was at a revision, as etcd's transactions do. Says whether it did.
    fn take(&mut self, cluster: &Cluster, choice: &Choice, seen: i64) -> bool {
        let text = value(&choice.member, cluster.network.backend);
        let done = match &choice.how {
            How::Held(_) => true,
            How::Rewritten(entry) => {
                let as_seen = self.entries.get(&entry.key).is_some_and(|now| now.modified == entry.modified);
                if as_seen {
                    self.write(&entry.key, &text, entry.lease);
                }
                as_seen
            }
            How::New => {
                let key = key(cluster, &choice.member.pieces);
                let free = !self.entries.contains_key(&key) && self.entries.values().all(|entry| entry.created <= seen);
                if free {
                    self.write(&key, &text, 7);
                }
                free
            }
        };
        if done {
            for old in choice.given_up.iter().filter(|old| old.lease != 0) {
                if self.entries.get(&old.key).is_some_and(|now| now.modified == old.modified) {
                    self.revision += 1;
                    self.entries.remove(&old.key);
                }
            }
        }
        done
    }

    fn chosen(&self, cluster: &Cluster, own: &Own) -> Result<Choice, String> {
        choose(cluster, pools(cluster), &self.list().1, own)
    }
}

fn pieces(choice: &Choice) -> Vec<String> {
    choice.member.pieces.iter().map(ToString::to_string).collect()
}

#[test]
fn the_same_host_comes_to_the_same_piece() {
    let (cluster, mut store) = (cluster(false), Store::default());
    let host = own(&cluster, 1, &[]);
    let first = store.chosen(&cluster, &host).unwrap();
    assert_eq!(first.how, How::New);
    assert!(store.take(&cluster, &first, 0));
    let again = store.chosen(&cluster, &host).unwrap();
    assert!(matches!(again.how, How::Held(_)));
    assert_eq!(again.member, first.member);
    // Once it has run out, too.
    store.entries.clear();
    assert_eq!(store.chosen(&cluster, &host).unwrap().member, first.member);
    // Another one that it had before comes first, if nobody has it.
    let host = own(&cluster, 1, &[&["10.5.60.0/24"], &["10.5.61.0/24"]]);
    assert_eq!(pieces(&store.chosen(&cluster, &host).unwrap()), ["10.5.60.0/24"]);
    store.write(b"/net/subnets/10.5.60.0-24", "who knows", 0);
    assert_eq!(pieces(&store.chosen(&cluster, &host).unwrap()), ["10.5.61.0/24"]);
    // Those that are none of the network's do not count.
    let host = own(&cluster, 1, &[&["10.5.0.0/24"], &["10.6.1.0/24"], &["10.5.4.0/23"], &["fc00::/64"]]);
    assert_eq!(store.chosen(&cluster, &host).unwrap().member, first.member);
}

#[test]
fn what_an_entry_of_its_own_says_is_put_right_and_nothing_more() {
    let (cluster, mut store) = (cluster(false), Store::default());
    let host = own(&cluster, 1, &[]);
    let flannels = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    store.write(b"/net/subnets/10.5.7.0-24", flannels, 42);
    // A reservation of the same host's that is older, one of another's, and one that is no piece.
    let choice = store.chosen(&cluster, &host).unwrap();
    assert_eq!(pieces(&choice), ["10.5.7.0/24"]);
    assert!(matches!(&choice.how, How::Rewritten(entry) if entry.lease == 42 && entry.modified == 1));
    assert!(store.take(&cluster, &choice, 1));
    let now = &store.entries[&b"/net/subnets/10.5.7.0-24"[..]];
    assert_eq!((now.lease, now.created, now.modified), (42, 1, 2));
    // Older ones of the same host end with it, but for reservations.
    store.entries.clear();
    store.write(b"/net/subnets/10.5.5.0-24", flannels, 0);
    store.write(b"/net/subnets/10.5.6.0-24", flannels, 41);
    store.write(b"/net/subnets/10.5.0.0-24", flannels, 43);
    store.write(b"/net/subnets/10.5.7.0-24", flannels, 42);
    let choice = store.chosen(&cluster, &host).unwrap();
    let revision = store.revision;
    assert!(store.take(&cluster, &choice, revision));
    let left: Vec<&str> = store.entries.keys().map(|key| std::str::from_utf8(key).unwrap()).collect();
    assert_eq!(left, ["/net/subnets/10.5.5.0-24", "/net/subnets/10.5.7.0-24"]);
}

#[test]
fn a_fixed_piece_is_had_or_not() {
    let (mut cluster, mut store) = (cluster(false), Store::default());
    cluster.pieces = vec![net("10.5.9.0/24")];
    let host = own(&cluster, 1, &[&["10.5.60.0/24"]]);
    assert_eq!(pieces(&store.chosen(&cluster, &host).unwrap()), ["10.5.9.0/24"]);
    store.write(b"/net/subnets/10.5.9.0-24", r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#, 1);
    let said = "`subnet = \"10.5.9.0/24\"` is leased to 192.0.2.2: wait until it is free, or leave `subnet` out to have \
                another piece leased";
    assert_eq!(store.chosen(&cluster, &host).unwrap_err(), said);
    // By a larger one, of somebody who cannot be read.
    store.entries.clear();
    store.write(b"/net/subnets/10.5.8.0-23", "", 1);
    assert!(store.chosen(&cluster, &host).unwrap_err().contains("is leased to somebody:"));
    cluster.pieces = vec![net("10.5.0.0/24")];
    let said = "`subnet = \"10.5.0.0/24\"` is none of the pieces that the configuration in etcd has";
    assert_eq!(store.chosen(&cluster, &host).unwrap_err(), said);
}

#[test]
fn the_last_piece_is_found_and_no_more_than_that() {
    let (cluster, mut store) = (cluster(false), Store::default());
    for number in (1..64).filter(|number| *number != 33) {
        store.write(format!("/net/subnets/10.5.{number}.0-24").as_bytes(), "garbage", 0);
    }
    for number in 1..=200 {
        assert_eq!(pieces(&store.chosen(&cluster, &own(&cluster, number, &[])).unwrap()), ["10.5.33.0/24"]);
    }
    store.write(b"/net/subnets/10.5.33.128-25", "garbage", 0);
    let said = "all 63 pieces of network `wide` are leased: none is left for this host";
    assert_eq!(store.chosen(&cluster, &own(&cluster, 1, &[])).unwrap_err(), said);
    // One key for all of them: who comes gets none, and who is there stays.
    store.entries.clear();
    let (host, revision) = (own(&cluster, 1, &[]), store.revision);
    let first = store.chosen(&cluster, &host).unwrap();
    assert!(store.take(&cluster, &first, revision));
    store.write(b"/net/subnets/10.5.0.0-18", "garbage", 0);
    assert_eq!(store.chosen(&cluster, &own(&cluster, 2, &[])).unwrap_err(), said);
    assert!(matches!(store.chosen(&cluster, &host).unwrap().how, How::Held(_)));
    // What is larger than the network is nothing of it.
    store.entries.remove(&b"/net/subnets/10.5.0.0-18"[..]);
    store.write(b"/net/subnets/0.0.0.0-0", "garbage", 0);
    assert_eq!(store.chosen(&cluster, &own(&cluster, 2, &[])).unwrap().how, How::New);
}

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Hosts read and write in any order, so that each may act on what is long past; leases run out between. Whoever holds a piece
/// holds it alone, and no entry of another's is ever written or removed by a host.
#[test]
fn whatever_the_order_no_piece_is_given_twice() {
    for seed in 1..400_u64 {
        let cluster = cluster(seed % 2 == 0);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut store = Store::default();
        let hosts: Vec<Own> = (1..=12).map(|number| own(&cluster, number, &[])).collect();
        // What each has read and not yet acted upon.
        let mut plans: Vec<Option<(Choice, i64)>> = vec![None; hosts.len()];
        for _ in 0..300 {
            let host = random.below(hosts.len());
            match random.below(10) {
                0 => {
                    // A lease runs out.
                    let keys: Vec<Vec<u8>> = store.entries.keys().cloned().collect();
                    if let Some(key) = keys.get(random.below(keys.len().max(1))) {
                        store.revision += 1;
                        store.entries.remove(key);
                    }
                }
                1..=5 => {
                    plans[host] = store.chosen(&cluster, &hosts[host]).ok().map(|choice| (choice, store.revision));
                }
                _ => {
                    let Some((choice, seen)) = plans[host].take() else { continue };
                    let before = store.entries.clone();
                    let done = store.take(&cluster, &choice, seen);
                    for (key, entry) in &before {
                        let whose = flannel::whose(&entry.value);
                        if whose != hosts[host].id() {
                            assert_eq!(store.entries.get(key), Some(entry), "seed {seed}: of another");
                        }
                    }
                    if !done {
                        continue;
                    }
                    let mut all: Vec<IpNetwork> = Vec::new();
                    for key in store.entries.keys() {
                        for piece in flannel::read_key(key, &cluster).unwrap() {
                            assert!(!all.iter().any(|other| meet(piece, *other)), "seed {seed}: {piece} twice");
                            all.push(piece);
                        }
                    }
                }
            }
        }
        // One after the other, each gets its own.
        for host in &hosts {
            let choice = store.chosen(&cluster, host).unwrap();
            let revision = store.revision;
            assert!(store.take(&cluster, &choice, revision), "seed {seed}");
        }
        assert_eq!(store.entries.len(), hosts.len(), "seed {seed}");
    }
}

#[test]
fn peers_are_those_that_make_sense_together() {
    let (cluster, mut store) = (cluster(false), Store::default());
    let vxlan = |ip: &str, mac: &str| {
        format!(
            r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":9,"VtepMAC":"{mac}"}}}}"#
        )
    };
    let me = member(&cluster, &own(&cluster, 1, &[]), vec![net("10.5.1.0/24")]);
    for (name, text) in [
        ("10.5.1.0-24", value(&me, cluster.network.backend)),
        ("10.5.2.0-24", vxlan("192.0.2.2", "02:00:00:00:00:02")),
        // It has moved, and what it had has not run out.
        ("10.5.3.0-24", vxlan("192.0.2.3", "02:00:00:00:00:03")),
        ("10.5.4.0-24", vxlan("192.0.2.3", "02:00:00:00:00:03")),
        ("10.5.5.0-24", vxlan("192.0.2.5", "02:00:00:00:00:02")),
        ("10.5.6.0-24", r#"{"PublicIP":"192.0.2.6","PublicIPv6":null,"BackendType":"host-gw"}"#.to_owned()),
        ("10.5.7.0-24", r#"{"PublicIP":"192.0.2.7","PublicIPv6":null}"#.to_owned()),
        ("10.5.8.0-24", "{".to_owned()),
        ("10.5.9.0-24", vxlan("127.0.0.1", "02:00:00:00:00:09")),
        ("10.5.10.0-24", vxlan("10.5.2.2", "02:00:00:00:00:0a")),
        ("10.5.11.0-24", vxlan("192.0.2.11", "ff:ff:ff:ff:ff:ff")),
        ("10.5.12.0-23", vxlan("192.0.2.12", "02:00:00:00:00:0c")),
        ("10.5.0.0-24", vxlan("192.0.2.13", "02:00:00:00:00:0d")),
        ("10.6.0.0-24", vxlan("192.0.2.14", "02:00:00:00:00:0e")),
        ("x10.5.14.0-24", vxlan("192.0.2.15", "02:00:00:00:00:0f")),
        ("10.5.15.1-24", vxlan("192.0.2.16", "02:00:00:00:00:10")),
        ("10.5.16.0-24", vxlan("192.0.2.17", &me.macs[0].unwrap().to_string())),
        ("10.5.17.0-24&fc00::-64", vxlan("192.0.2.18", "02:00:00:00:00:12")),
    ] {
        store.write(format!("/net/subnets/{name}").as_bytes(), &text, 1);
    }
    let (peers, notes) = peers(&cluster, pools(&cluster), &store.list().1, &me, &Local::default());
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["10.5.2.0/24 at 192.0.2.2", "10.5.4.0/24 at 192.0.2.3"]);
    let notes: Vec<&str> =
        notes.iter().map(|note| note.text().strip_prefix("the entry `/net/subnets/").unwrap()).collect();
    assert_eq!(
        notes,
        [
            "10.5.0.0-24` in etcd is not used: 10.5.0.0/24 is no piece of network `wide`",
            "10.5.10.0-24` in etcd is not used: its `PublicIP` is `10.5.2.2`, where no host can be reached",
            "10.5.11.0-24` in etcd is not used: the `VtepMAC` for 10.5.11.0/24 is `ff:ff:ff:ff:ff:ff`",
            "10.5.12.0-23` in etcd is not used: 10.5.12.0/23 is no piece of network `wide`",
            "10.5.15.1-24` in etcd is not used: its key names no subnet",
            "10.5.16.0-24` in etcd is not used: its `VtepMAC` is that of this host",
            "10.5.17.0-24&fc00::-64` in etcd is not used: the `VtepMAC` for fc00::/64 is ``",
            "10.5.3.0-24` in etcd is not used: 192.0.2.3 has another one that is newer",
            "10.5.5.0-24` in etcd is not used: its `VtepMAC` is that of 192.0.2.2",
            "10.5.6.0-24` in etcd is not used: its backend is `host-gw`, and this network's `vxlan`",
            "10.5.7.0-24` in etcd is not used: its backend is none, and this network's `vxlan`",
            "10.5.8.0-24` in etcd is not used: it is no JSON (EOF while parsing an object at line 1 column 1)",
            "10.5.9.0-24` in etcd is not used: its `PublicIP` is `127.0.0.1`, where no host can be reached",
            "10.6.0.0-24` in etcd is not used: 10.6.0.0/24 is no piece of network `wide`",
            "x10.5.14.0-24` in etcd is not used: its key names no subnet",
        ]
    );
}

/// A host whose address is another one goes on with the entry that it wrote, unless one of its new address is there; what only
/// its memory says to be its own is never taken away.
#[test]
fn a_host_that_moves_takes_its_piece_along() {
    let (cluster, mut store) = (cluster(false), Store::default());
    let host = own(&cluster, 1, &[]);
    let first = store.chosen(&cluster, &host).unwrap();
    assert!(store.take(&cluster, &first, 0));
    let moved = Own { was: Some(first.member.clone()), ..own(&cluster, 2, &[]) };
    let choice = store.chosen(&cluster, &moved).unwrap();
    assert!(matches!(&choice.how, How::Rewritten(entry) if entry.modified == 1));
    assert_eq!(choice.member.pieces, first.member.pieces);
    assert_eq!(choice.member.addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    // Who remembers nothing takes another one.
    assert_eq!(store.chosen(&cluster, &own(&cluster, 2, &[])).unwrap().how, How::New);
    // So does who remembers something else.
    let other = Member { macs: ["02:00:00:00:00:01".parse().ok(), None], ..first.member.clone() };
    assert_eq!(store.chosen(&cluster, &Own { was: Some(other), ..moved.clone() }).unwrap().how, How::New);
    // A fixed piece that is another one.
    let fixed = Cluster { pieces: vec![net("10.5.40.0/24")], ..cluster.clone() };
    let choice = store.chosen(&fixed, &moved).unwrap();
    assert_eq!((choice.how, choice.given_up), (How::New, Vec::new()));
    // One of its new address comes first.
    let there = store.chosen(&cluster, &own(&cluster, 2, &[])).unwrap();
    assert!(store.take(&cluster, &there, 1));
    let choice = store.chosen(&cluster, &moved).unwrap();
    assert!(matches!(choice.how, How::Held(_)));
    assert_eq!((choice.member.pieces, choice.given_up), (there.member.pieces, Vec::new()));
}
