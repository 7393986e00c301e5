//! What a change means for published ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::state::firewall::{Concat, Datum, Element, ElementData};
use crate::state::{At, Entry, Key, Mapping, Object, State};

/// A published port: protocol, port and addresses of the host.
type Published = (u8, u16, At);

/// The mappings of every published port (protocol, host port, family) of which one changes between two states. None
/// where no published port does.
pub fn mappings(before: &State, after: &State) -> Vec<Mapping> {
    let mut all: BTreeMap<Published, (Option<SocketAddr>, Option<SocketAddr>)> = BTreeMap::new();
    for (key, target) in before.iter().filter_map(published) {
        all.entry(key).or_default().0 = Some(target);
    }
    for (key, target) in after.iter().filter_map(published) {
        all.entry(key).or_default().1 = Some(target);
    }
    let port = |(protocol, port, at): Published| (protocol, port, at.is_ipv6());
    let changed: BTreeSet<_> = all.iter().filter(|(_, (b, a))| b != a).map(|(key, _)| port(*key)).collect();
    all.into_iter()
        .filter(|(key, _)| changed.contains(&port(*key)))
        .map(|((protocol, port, at), (before, after))| Mapping { protocol, at, port, before, after })
        .collect()
}

/// An element of a port map: `[address .] protocol . port : address . port`.
fn published((key, entry): (&Key, &Entry)) -> Option<(Published, SocketAddr)> {
    let Key::Element { key: Concat(key), .. } = key else { return None };
    let Object::Element(Element { data: Some(ElementData::Values(Concat(data))) }) = &entry.object else { return None };
    let [address, Datum::InetService(port)] = data[..] else { return None };
    let target = SocketAddr::new(ip(address)?, port);
    let (at, protocol, port) = match key[..] {
        [Datum::InetProto(protocol), Datum::InetService(port)] => (At::any(target.is_ipv6()), protocol, port),
        [address, Datum::InetProto(protocol), Datum::InetService(port)] => (At::One(ip(address)?), protocol, port),
        _ => return None,
    };
    Some(((protocol, port, at), target))
}

fn ip(datum: Datum) -> Option<IpAddr> {
    match datum {
        Datum::Ipv4Addr(a) => Some(a.into()),
        Datum::Ipv6Addr(a) => Some(a.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Owner;

    fn state(ports: &[(&str, u8, u16, &str)]) -> State {
        let datum = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(a) => Datum::Ipv4Addr(a),
            IpAddr::V6(a) => Datum::Ipv6Addr(a),
        };
        let mut state = State::new();
        for (at, protocol, port, target) in ports {
            let target: SocketAddr = target.parse().unwrap();
            let mut key = vec![Datum::InetProto(*protocol), Datum::InetService(*port)];
            if *at != "any" {
                key.insert(0, datum(at));
            }
            let set = if target.is_ipv6() { "port6" } else { "port4" };
            let data = Concat(vec![datum(&target.ip().to_string()), Datum::InetService(target.port())]);
            let key = Key::Element { set: set.into(), key: Concat(key) };
            let element = Object::Element(Element { data: Some(ElementData::Values(data)) });
            state.insert(key, Entry::new(element, Owner::netrec()));
        }
        state
    }

    fn shown(before: &[(&str, u8, u16, &str)], after: &[(&str, u8, u16, &str)]) -> Vec<String> {
        let target = |target: Option<SocketAddr>| target.map_or("nothing".to_owned(), |t| t.to_string());
        let all = mappings(&state(before), &state(after));
        let show =
            |m: Mapping| format!("{:?} {} {}: {} -> {}", m.at, m.protocol, m.port, target(m.before), target(m.after));
        all.into_iter().map(show).collect()
    }

    #[test]
    fn ports_that_change_come_with_all_their_addresses() {
        let before = [
            ("any", 6, 80, "10.0.0.2:80"),
            ("any", 6, 80, "[fd00::2]:80"),
            ("192.0.2.1", 6, 80, "10.0.0.3:80"),
            ("any", 17, 80, "10.0.0.2:80"),
            ("127.0.0.1", 6, 81, "10.0.0.2:81"),
        ];
        assert_eq!(shown(&before, &before), [""; 0]);
        let mut after = before.to_vec();
        after[2] = ("192.0.2.1", 6, 80, "10.0.0.4:80");
        after[4] = ("127.0.0.1", 6, 82, "10.0.0.2:81");
        let wanted = [
            "AnyIpv4 6 80: 10.0.0.2:80 -> 10.0.0.2:80",
            "One(192.0.2.1) 6 80: 10.0.0.3:80 -> 10.0.0.4:80",
            "One(127.0.0.1) 6 81: 10.0.0.2:81 -> nothing",
            "One(127.0.0.1) 6 82: nothing -> 10.0.0.2:81",
        ];
        assert_eq!(shown(&before, &after), wanted);
    }
}
