//! Many elements.

use super::*;

isolated! {
    fn twenty_thousand_elements_in_one_transaction() {
        let mut firewall = Firewall::open().unwrap();
        let mut all = small();
        for i in 0..most(20_000) {
            let to = to(vec![Datum::Ipv4Addr(std::net::Ipv4Addr::from(0x0a01_0000 + u32::from(i))), port(i)]);
            all.push(element("any4", vec![UDP, port(i)], to, &format!("containers.web{i}.ports[0]")));
        }
        let steps = create(&all);
        let mut writes = Writes::new();
        let begin = std::time::Instant::now();
        firewall.run(&steps, &mut writes).unwrap();
        let written = begin.elapsed();
        assert!(writes.count() < 60, "{} messages", writes.count());
        let begin = std::time::Instant::now();
        let entries = firewall.read().unwrap();
        println!("{} elements: written in {written:?}, read in {:?}", all.len(), begin.elapsed());
        assert_eq!(entries.len(), all.len());
        assert_eq!(State::from_iter(entries), state(&all));

        // The mark of every other one, all in one transaction, and all away.
        let updates: Vec<Step> = all.iter().skip(9).step_by(2).map(|entry| {
            change(entry, Entry { owners: vec![owner("containers.other")], ..entry.1.clone() })
        }).collect();
        run(&mut firewall, &updates);
        run(&mut firewall, &inverse(&updates));
        assert_eq!(read(&mut firewall), state(&all));
        run(&mut firewall, &delete(&all[9..]));
        assert_eq!(read(&mut firewall), state(&small()));
    }

    // The kernel goes on enlarging its hash tables after a big transaction, and a dump then yields elements twice and
    // others not at all.
    fn a_set_that_has_just_grown_is_read_whole() {
        let mut firewall = Firewall::open().unwrap();
        for round in 0..60u16 {
            let mut all = small();
            for i in 0..most(500 + round * 180) {
                let to = to(vec![Datum::Ipv4Addr(std::net::Ipv4Addr::from(0x0a01_0000 + u32::from(i))), port(i)]);
                all.push(element("any4", vec![UDP, port(i)], to, "containers.web"));
            }
            run(&mut firewall, &create(&all));
            assert_eq!(read(&mut firewall).len(), all.len());
            run(&mut firewall, &delete(&all[..1]));
        }
    }
}
