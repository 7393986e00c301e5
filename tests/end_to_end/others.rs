//! What is not netrec's on its host: routes, rules, tables of firewalls with the same hooks and priorities, and ports, entries
//! and addresses of a bridge that it uses. Whatever netrec does, they are the same after it.

use crate::lab::{self, Lab, Snapshot, until};

const FIRST: &str = "[networks.lan]\nbridge = 'br0'\nadopt = true\nsubnet = ['10.40.0.0/16', 'fd40::/64']\n\
                     [networks.front]\nsubnet = ['10.20.0.0/24', 'fd20::/64']\n\
                     [containers.web]\nnetworks = ['lan', 'front']\nports = ['8080:80']\n\
                     [containers.api]\nnetworks = ['lan']\n";
/// A network, a container and a port go, and others come.
const SECOND: &str = "[networks.lan]\nbridge = 'br0'\nadopt = true\nsubnet = ['10.40.0.0/16', 'fd40::/64']\n\
                      [networks.back]\nsubnet = '10.21.0.0/24'\nicc = false\n\
                      [containers.web]\nnetworks = ['back', 'lan']\nports = ['8081:80']\n\
                      [containers.db]\nnetworks = ['lan']\n";

/// Others at all the places where netrec has something, too.
const OTHERS: &str = "
    nft -f - <<'NFT'
    table inet theirs {
        set known { type ipv4_addr; flags timeout; elements = { 203.0.113.1, 203.0.113.2 }; }
        map ports { type inet_service : ipv4_addr; elements = { 6000 : 203.0.113.1 }; }
        chain pre { type nat hook prerouting priority dstnat; policy accept; dnat ip to tcp dport map @ports; }
        chain out { type nat hook output priority -100; policy accept; }
        chain post { type nat hook postrouting priority srcnat; policy accept; ip saddr 203.0.113.0/24 masquerade; }
        chain forward { type filter hook forward priority filter; policy accept; ip saddr @known counter accept; }
        chain input { type filter hook input priority filter; policy accept; ip saddr @known counter; }
        chain early { type filter hook prerouting priority raw; policy accept; tcp dport 6001 notrack; }
    }
    table ip nat { chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; }; }
    table bridge theirs { chain forward { type filter hook forward priority filter; policy accept; }; }
NFT
    ip route add 203.0.113.0/24 via 192.0.2.9 proto static metric 50
    ip route add 198.51.100.0/24 via 192.0.2.9 proto 77
    ip route add blackhole 198.51.100.128/25
    ip -6 route add 2001:db8:9::/48 via 2001:db8::9 proto static
    ip route add default via 192.0.2.9 table 100
    ip rule add from 203.0.113.7 lookup 100 priority 1000
    ip rule add fwmark 0x4e lookup 100 priority 1002
    ip -6 rule add from 2001:db8:7::/48 lookup 100 priority 1001
    ip link add br0 address 02:00:00:00:40:00 type bridge
    ip link add th0 address 02:00:00:00:40:01 type veth peer name th1 address 02:00:00:00:40:02
    ip link set th0 master br0
    for d in br0 th0 th1; do
        for s in accept_dad router_solicitations; do echo 0 >/proc/sys/net/ipv6/conf/$d/$s; done
        ip link set $d up
    done
    ip address add 10.40.0.1/16 dev br0
    ip address add fd40::1/64 dev br0 nodad
    ip address add 10.99.0.1/24 dev br0
    bridge link set dev th0 hairpin on learning off cost 7
    bridge fdb add 02:00:00:00:40:aa dev th0 master static
    bridge fdb add 02:00:00:00:40:bb dev br0 self permanent
    ip neigh add 10.40.0.9 lladdr 02:00:00:00:40:aa dev br0 nud permanent
    ip neigh add fd40::9 lladdr 02:00:00:00:40:aa dev br0 nud permanent
    tc qdisc add dev th1 root handle 7: tbf rate 1gbit burst 64k latency 50ms";

fn others(lab: &Lab) -> Snapshot {
    drop(lab.host.settle());
    Snapshot::of_others(&lab.host)
}

#[test]
fn what_others_have_stays_as_it_is() {
    lab::in_lab(|lab| {
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lab.host.set_sysctl(path, "1");
        }
        lab.host.sh(OTHERS);
        let before = others(lab);
        for theirs in
            ["02:00:00:00:40:aa", "02:00:00:00:40:bb", "\"br0\"", "10.99.0.1", "203.0.113.7", "198.51.100.128/25"]
        {
            assert!(before.text().contains(theirs), "{theirs} is not seen: {}", before.text());
        }
        let unchanged = |what: &str| assert_eq!(before.diff(&others(lab)), "", "after {what}");
        lab.host.apply(FIRST);
        unchanged("an apply");
        lab.host.apply(SECOND);
        unchanged("a change");
        // Taken back because something fails, because somebody says so, and because nobody does.
        #[cfg(feature = "fault-injection")]
        for at in [5, 25, 45] {
            let file = lab.host.write("netrec.toml", FIRST);
            let fault = format!("fail:{at}:EPERM");
            let failed = lab.host.netrec_with_env(&[("NETREC_FAULT", &fault)], &["-c", &file, "apply", "-y"]);
            assert_eq!(failed.status, 4, "{fault}: {}", failed.stderr);
            unchanged("an apply that failed");
        }
        for (time, rollback) in [("1h", true), ("1s", false)] {
            let applied = lab.host.try_netrec(FIRST, &["apply", "-y", "--confirm", time]);
            assert_eq!(applied.status, 0, "{}", applied.stderr);
            if rollback {
                assert_eq!(lab.host.netrec(&["rollback"]).status, 0);
            }
            until("it is taken back", || lab.host.try_netrec(SECOND, &["plan", "--detailed-exitcode"]).status == 0);
            unchanged("a rollback");
        }
        lab.host.destroy(SECOND);
        unchanged("a destroy");
        assert_eq!(before.diff(&Snapshot::of(&lab.host)), "", "something of netrec's is left");
    });
}
