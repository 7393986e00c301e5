//! What lines mean in files of overlay networks, and the ways that the world has.

use std::net::IpAddr;

use super::lines::Reader;
use super::stand_ins::with_stand_ins;
use super::world::World;
use crate::config::{self, Config, Source, Sources};
use crate::desired::Chosen;
use crate::state::{Key, Object};

const CLUSTER: &str = r#"
expect = [
  "web -> db:5432",
  "web -> host.b:8080",
  "web -> host.b",
  "web -> world:443",
  "host.a -> db:5432",
  "host.a -> host.b:8080",
  "world -> 10.30.2.1:22",
  "web -> 10.31.0.1:22",
  "world -> db:5432",
]

[hosts.a]
id = 1
address = "192.0.2.1"

[hosts.b]
id = 2
address = ["192.0.2.9", "2001:db8::9"]

[networks.local]
subnet = "10.20.0.0/24"

[networks.routed]
driver = "overlay"
topology = "routed"
subnet = "10.30.0.0/16"
vni = 4100

[networks.switched]
driver = "overlay"
subnet = "10.31.0.0/16"
vni = 4101

[containers.web]
host = "a"
networks.local = { address = "10.20.0.10" }
networks.routed = { address = "10.30.1.10" }
networks.switched = { address = "10.31.0.10" }

[containers.db]
host = "b"
networks.local = { address = "10.20.0.20" }
networks.routed = { address = "10.30.2.20" }
networks.switched = { address = "10.31.0.20" }
ports = ["8080:80"]
"#;

fn parse(toml: &str) -> Config {
    let source = Source { name: "netrec.toml".to_owned(), text: toml.to_owned() };
    config::parse(Sources(vec![source])).unwrap_or_else(|e| panic!("{e}"))
}

/// `TO [by NAME] [from ADDRESS] [past HOSTS]` for each try of each line.
fn attempts(config: &Config) -> Vec<String> {
    let chosen = Chosen::new(config).unwrap();
    let world = World::new(config, &chosen).unwrap();
    let reader = Reader { config, chosen: &chosen, world: &world };
    let told = |line: &config::Expect| {
        let tries = reader.attempts(line).into_iter().map(|attempt| {
            let by = attempt.by.map(|by| format!(" by {by}")).unwrap_or_default();
            let from = attempt.seen_from.map(|ip| format!(" from {ip}")).unwrap_or_default();
            let way = reader.way(line.from, attempt.to).into_iter().map(|host| world.hosts[host].name.clone());
            format!("{}{by}{from} past {}", attempt.to, way.collect::<Vec<_>>().join(" "))
        });
        format!("{}: {}", line.text, tries.collect::<Vec<_>>().join(", "))
    };
    config.expect.iter().map(told).collect()
}

#[test]
fn lines_of_overlay_networks() {
    assert_eq!(
        attempts(&parse(CLUSTER)),
        [
            // The bridges of one name on two hosts have nothing to do with each other.
            "web -> db:5432: 10.30.2.20 by db from 10.30.1.10 past host.a host.b, \
             10.31.0.20 by db from 10.31.0.10 past host.a host.b",
            "web -> host.b:8080: 192.0.2.9 by db from 192.0.2.1 past host.a host.b",
            "web -> host.b: 192.0.2.9 past host.a host.b",
            "web -> world:443: 198.18.0.254 by world from 192.0.2.1 past host.a",
            "host.a -> db:5432: 10.30.2.20 by db past host.a host.b, 10.31.0.20 by db past host.a host.b",
            "host.a -> host.b:8080: 192.0.2.9 by db from 192.0.2.1 past host.a host.b",
            "world -> 10.30.2.1:22: 10.30.2.1 by host.b from 198.18.0.254 past host.b",
            "web -> 10.31.0.1:22: 10.31.0.1 by host.a past host.a",
            "world -> db:5432: 10.20.0.20 by db from 198.18.0.254 past host.b, \
             10.30.2.20 by db from 198.18.0.254 past host.b, 10.31.0.20 by db from 198.18.0.254 past host.b",
        ]
    );
}

/// The addresses and routes of a machine.
fn ways(world: &World, machine: &str) -> Vec<String> {
    let told = world.state.iter().filter_map(|(key, entry)| match (key, &entry.object) {
        (Key::Address { netns, ip, .. }, _) if netns.to_string() == machine => Some(ip.to_string()),
        (Key::Route { netns, to, .. }, Object::Route(route)) if netns.to_string() == machine => {
            let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
            Some(format!("{to}{via}{}", if route.onlink { " onlink" } else { "" }))
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn the_world_reaches_everybody_by_his_own_host() {
    let config = parse(CLUSTER);
    let chosen = Chosen::new(&config).unwrap();
    let world = World::new(&config, &chosen).unwrap();
    let own: IpAddr = chosen.networks[2].hosts[1].addresses[0].ip();
    let mut wanted: Vec<String> = [
        "198.18.0.254/24",
        "2001:db8:ffff:1::fe/64",
        "192.0.2.1/32",
        "192.0.2.9/32",
        "2001:db8::9/128",
        "10.20.0.0/24 via 192.0.2.1 onlink",
        "10.20.0.20/32 via 192.0.2.9 onlink",
        "10.30.1.0/24 via 192.0.2.1 onlink",
        "10.30.2.0/24 via 192.0.2.9 onlink",
        "10.31.0.0/16 via 192.0.2.1 onlink",
        "10.31.0.20/32 via 192.0.2.9 onlink",
    ]
    .map(str::to_owned)
    .into();
    wanted.push(format!("{own}/32 via 192.0.2.9 onlink"));
    let mut found = ways(&world, "~world");
    wanted.sort();
    found.sort();
    assert_eq!(found, wanted);
}

/// Hosts have the prefix length of the smallest network that all are in; where one of the file's would be within, or
/// there is none, a route to each.
#[test]
fn hosts_are_on_one_link() {
    let of = |a: &str, b: &str, subnet: &str| {
        let config = parse(&format!(
            "hosts.a = {{ id = 1, address = \"{a}\" }}\nhosts.b = {{ id = 2, address = \"{b}\" }}\n\
             networks.n.subnet = \"{subnet}\"\n"
        ));
        let world = World::new(&config, &Chosen::new(&config).unwrap()).unwrap();
        let mut ways = ways(&world, "~host.a");
        // What leads to the world.
        ways.retain(|way| !way.contains("198.18") && !way.contains("ffff:1:") && !way.contains("/0"));
        ways
    };
    assert_eq!(of("192.0.2.1", "192.0.2.2", "10.1.0.0/24"), ["192.0.2.1/30"]);
    // The first and the last of a network are nobody's.
    assert_eq!(of("192.0.2.4", "192.0.2.7", "10.1.0.0/24"), ["192.0.2.4/28"]);
    assert_eq!(of("10.0.0.1", "10.2.0.1", "10.3.0.0/24"), ["10.0.0.1/32", "10.2.0.1/32"]);
    assert_eq!(of("10.0.0.1", "192.0.2.1", "10.3.0.0/24"), ["10.0.0.1/32", "192.0.2.1/32"]);
    assert_eq!(of("2001:db8::1", "2001:db8:0:1::1", "10.1.0.0/24"), ["2001:db8::1/63"]);
}

#[test]
fn the_device_that_an_overlay_runs_over_is_stood_in_for() {
    let toml = CLUSTER.replace("vni = 4100", "vni = 4100\nunderlay = \"eth1\"");
    let (config, stood_in) = with_stand_ins(&parse(&toml));
    let devices: Vec<_> = config.networks.iter().filter_map(|n| n.overlay()?.underlay).collect();
    assert_eq!(devices, ["uplink".parse().unwrap()]);
    assert_eq!(stood_in, ["device `eth1` that network `routed` runs over"]);
}
