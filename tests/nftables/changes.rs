//! Steps carried out, in place or by making the table anew, and taken back.

use super::*;

isolated! {
    fn without_a_table_there_is_nothing() {
        let mut firewall = Firewall::open().unwrap();
        assert_eq!(firewall.read().unwrap(), []);
        nft("add table inet other; add chain inet other c; add table ip netrec; add chain ip netrec c");
        assert_eq!(firewall.read().unwrap(), []);
        let mut writes = Writes::new();
        firewall.run(&[], &mut writes).unwrap();
        assert_eq!(writes.count(), 0);
    }

    fn changes_in_place_and_back() {
        let mut firewall = Firewall::open().unwrap();
        let before = small();
        run(&mut firewall, &create(&before));

        let mut after = before.clone();
        let accept = vec![is(Field::L4Proto, TCP), ACCEPT];
        let closed = BaseChain { policy: Policy::Drop, ..base(ChainKind::Filter, Hook::Forward, 0).unwrap() };
        put(&mut after, "chain forward", &chain("", Some(closed), vec![accept.clone(), vec![DROP]]).1);
        put(&mut after, "chain sub", &chain("", None, vec![accept]).1);
        let web = "element any4 { tcp . 8080 }";
        put(&mut after, web, &element("", vec![], to(vec![ip4("10.1.0.9"), port(80)]), "containers.web.ports[0]").1);
        let mark = "element any4 { tcp . 8081 }";
        put(&mut after, mark, &element("", vec![], to(vec![ip4("10.1.0.2"), port(81)]), "containers.db.ports[0]").1);
        let names = ["chain forward", "chain sub", web, mark];
        let steps: Vec<Step> =
            names.iter().map(|name| change(find(&before, name), find(&after, name).1.clone())).collect();

        let mut writes = Writes::new();
        firewall.run(&steps, &mut writes).unwrap();
        // The policy, two flushes, one deletion and one addition of elements, three rules.
        assert_eq!(writes.count(), 8);
        assert_eq!(read(&mut firewall), state(&after));
        let text = listing();
        assert!(text.contains("hook forward priority filter; policy drop;\n\t\tmeta l4proto tcp accept\n\t\tdrop\n\t}"), "{text}");
        assert!(text.contains("tcp . 8080 comment \"netrec containers.web.ports[0]\" : 10.1.0.9 . 80"), "{text}");
        assert!(text.contains("tcp . 8081 comment \"netrec containers.db.ports[0]\" : 10.1.0.2 . 81"), "{text}");

        run(&mut firewall, &inverse(&steps));
        assert_eq!(read(&mut firewall), state(&before));
    }

    fn deletions_in_any_order_with_what_refers_to_them() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        // All but the table: a map with elements that jump to a chain that goes, rules that use a map that goes.
        run(&mut firewall, &delete(&all[1..]));
        assert_eq!(listing(), "table inet netrec {\n\tcomment \"netrec netrec\"\n}\n");
        assert_eq!(read(&mut firewall), state(&all[..1]));
        run(&mut firewall, &create(&all[1..]));
        assert_eq!(read(&mut firewall), state(&all));

        // An element and the chain it jumps to go, the map stays.
        let gone = [find(&all, "chain sub").clone(), find(&all, "element from { \"br0\" }").clone()];
        run(&mut firewall, &delete(&gone));
        run(&mut firewall, &inverse(&delete(&gone)));
        assert_eq!(read(&mut firewall), state(&all));

        // The table, with and without the rest.
        let mut writes = Writes::new();
        firewall.run(&delete(&all), &mut writes).unwrap();
        assert_eq!((writes.count(), nft("list ruleset")), (1, String::new()));
        run(&mut firewall, &create(&all));
        run(&mut firewall, &delete(&all[..1]));
        assert_eq!((firewall.read().unwrap(), nft("list ruleset")), (vec![], String::new()));
    }

    fn what_cannot_change_in_place_is_made_anew() {
        let mut firewall = Firewall::open().unwrap();
        let before = small();
        run(&mut firewall, &create(&before));

        // Another key, whose element comes as a step; its rule too. The other map, used by a chain that stays as it is,
        // gets another mark. A base chain gets another hook.
        let mut after = before.clone();
        let dnat = Expr::DnatMap { family: Family::Ipv4, fields: vec![Field::ThDport], map: name("any4"), keep_port: false };
        let key = [DataType::InetService];
        let types = values(&[DataType::Ipv4Addr, DataType::InetService]);
        put(&mut after, "set any4", &set("", &key, types).1);
        put(&mut after, "chain pre", &chain("", base(ChainKind::Nat, Hook::Output, -90), vec![vec![dnat]]).1);
        let mut marked = find(&before, "set from").1.clone();
        marked.owners = vec![owner("networks.back")];
        put(&mut after, "set from", &marked);
        let names = ["set any4", "set from", "chain pre"];
        let mut steps: Vec<Step> =
            names.iter().map(|name| change(find(&before, name), find(&after, name).1.clone())).collect();
        let web = element("any4", vec![port(8080)], to(vec![ip4("10.1.0.2"), port(80)]), "containers.web.ports[0]");
        let old: Vec<_> = after.extract_if(.., |(key, _)| key.to_string().starts_with("element any4")).collect();
        steps.extend(delete(&old));
        steps.extend(create(std::slice::from_ref(&web)));
        after.push(web);

        run(&mut firewall, &steps);
        assert_eq!(read(&mut firewall), state(&after));
        run(&mut firewall, &inverse(&steps));
        assert_eq!(read(&mut firewall), state(&before));
    }
}
