//! Other programs' tables: which are seen, and what of them.

use super::*;
use netrec::state::TableFamily;

/// Tables with their chains: `inet fw: in input drop, sub`.
fn others(firewall: &mut Firewall) -> Vec<String> {
    let tables = firewall.others().unwrap();
    let chain = |chain: &netrec::state::ForeignChain| match chain.base {
        Some((hook, policy)) => format!("{} {hook:?} {policy:?}", chain.name).to_lowercase(),
        None => chain.name.clone(),
    };
    tables
        .iter()
        .map(|table| {
            assert!(!table.rules_known && table.chains.iter().all(|c| c.rules.is_empty()));
            let chains: Vec<String> = table.chains.iter().map(chain).collect();
            format!("{} {}: {}", table.family, table.name, chains.join(", "))
        })
        .collect()
}

isolated! {
    fn base_chains_on_forward_and_input_are_seen() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()));
        assert_eq!(others(&mut firewall), [""; 0], "netrec's own is no other");
        nft("add table ip filter
            add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
            add chain ip filter OUTPUT { type filter hook output priority 0; policy drop; }
            add chain ip filter SUB
            add table ip6 six
            add chain ip6 six inward { type filter hook input priority 5; }
            add table inet both
            add chain inet both outward { type filter hook forward priority 5; policy drop; }
            add chain inet both post { type nat hook postrouting priority 100; }
            add table bridge frames
            add chain bridge frames outward { type filter hook forward priority 0; policy drop; }
            add table ip netrec
            add chain ip netrec inward { type filter hook input priority 0; policy drop; }
            add table inet asleep { flags dormant; }
            add chain inet asleep outward { type filter hook forward priority 0; policy drop; }
            add table inet elsewhere
            add chain inet elsewhere pre { type filter hook prerouting priority 0; policy drop; }
            add table arp strange
            add chain arp strange inward { type filter hook input priority 0; policy drop; }");
        let mut seen = others(&mut firewall);
        seen.sort();
        assert_eq!(seen, [
            "bridge frames: outward forward drop",
            "inet both: outward forward drop, post",
            "ip filter: forward forward drop, OUTPUT, SUB",
            "ip netrec: inward input drop",
            "ip6 six: inward input accept",
        ]);
        let families: Vec<_> = firewall.others().unwrap().iter().map(|table| table.family).collect();
        assert!(families.contains(&TableFamily::Bridge));
        assert_eq!(read(&mut firewall), state(&small()), "the next read has its answers to itself");
    }
}
