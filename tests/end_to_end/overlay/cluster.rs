//! Several hosts on one underlay, and a world beside them.

use std::fmt::Write as _;

use crate::lab::{self, Listener, Machine, Space};

/// Where the hosts are: all on one link, which is a bridge of a machine of its own.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Hosts `a`, `b`, `c` …: `eth0` with `192.0.2.1`, `192.0.2.2` … and `2001:db8::1`, `2001:db8::2` ….
    pub(super) hosts: Vec<Machine>,
    /// `eth0` with `192.0.2.99` and `2001:db8::99`.
    pub(super) world: Machine,
    switch: Machine,
}

/// Runs a test's body with as many hosts.
pub(super) fn in_cluster<F: FnOnce(&Cluster)>(count: usize, body: F) {
    lab::run_test(std::any::type_name::<F>(), || body(&Cluster::new(count)));
}

/// `a` of 0.
pub(super) fn host_name(host: usize) -> String {
    char::from(b'a' + u8::try_from(host).unwrap()).to_string()
}

impl Cluster {
    pub(super) fn new(count: usize) -> Self {
        let switch = Machine::new("switch");
        switch.run(["ip", "link", "add", "underlay", "up", "type", "bridge", "mcast_snooping", "0"]);
        let hosts: Vec<Machine> = (0..count).map(|host| Machine::new(&host_name(host))).collect();
        let world = Machine::new("world");
        let cluster = Self { hosts, world, switch };
        for host in 0..count {
            cluster.plug_in(&cluster.hosts[host], host + 1);
        }
        cluster.plug_in(&cluster.world, 99);
        cluster
    }

    /// Joins a machine to the link, with the addresses of a number.
    pub(super) fn plug_in(&self, machine: &Machine, number: usize) {
        let port = format!("to-{}", machine.name());
        machine.link(&self.switch, "eth0", &port);
        self.switch.run(["ip", "link", "set", &port, "master", "underlay"]);
        machine.add_address("eth0", &format!("192.0.2.{number}/24"));
        machine.add_address("eth0", &format!("2001:db8::{number}/64"));
    }

    /// Applies a file on every host.
    pub(super) fn apply(&self, file: &str) {
        for host in &self.hosts {
            host.apply(file);
        }
    }

    /// What each host would change.
    pub(super) fn plans(&self, file: &str) -> Vec<Vec<String>> {
        self.hosts.iter().map(|host| host.plan(file).actions()).collect()
    }

    /// A machine by its name, or a container by one that begins with its host's: `b2` is on `b`.
    pub(super) fn space(&self, name: &str) -> Space {
        if name == "world" {
            return (*self.world).clone();
        }
        let host = self.hosts.iter().find(|host| host.name() == &name[..1]).unwrap();
        if name.len() == 1 { (**host).clone() } else { host.named(name) }
    }

    /// Tries every line of a table, as [`lab::Lab::expect`] does.
    pub(super) fn expect(&self, table: &str) {
        lab::expect(&|name| self.space(name), table);
    }

    /// What each container answers with: its name, on TCP's and UDP's port 80.
    pub(super) fn listen(&self, containers: &[&str]) -> Vec<Listener> {
        let listen = |name: &&str| {
            let space = self.space(name);
            [space.listen_tcp(name, "[::]:80"), space.listen_udp(name, "[::]:80")]
        };
        containers.iter().flat_map(listen).collect()
    }
}

/// The hosts of a file, with addresses of one family first.
pub(super) fn hosts(count: usize, ipv6_first: bool) -> String {
    let mut text = String::new();
    for host in 0..count {
        let number = host + 1;
        let mut addresses = [format!("\"192.0.2.{number}\""), format!("\"2001:db8::{number}\"")];
        if ipv6_first {
            addresses.reverse();
        }
        let addresses = addresses.join(", ");
        let _ = writeln!(text, "[hosts.{}]\nid = {number}\naddress = [{addresses}]", host_name(host));
    }
    text
}

/// Containers on network `wide`: `a1`, `a2` … on each host.
pub(super) fn containers(hosts: usize, each: usize) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut names = Vec::new();
    for host in 0..hosts {
        for number in 1..=each {
            let name = format!("{}{number}", host_name(host));
            let _ = writeln!(text, "[containers.{name}]\nhost = \"{}\"\nnetworks = [\"wide\"]", host_name(host));
            names.push(name);
        }
    }
    (text, names)
}
