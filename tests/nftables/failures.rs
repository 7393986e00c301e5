//! Transactions that the kernel or netrec refuses: nothing of them is done, and the culprit is named.

use super::*;

isolated! {
    fn a_change_by_somebody_else_stops_it() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()));
        let before = read(&mut firewall);
        let accept = chain("sub", None, vec![vec![ACCEPT]]).1;
        let in_place = [change(find(&small(), "chain sub"), accept.clone())];
        let rebuild = [change(find(&small(), "chain sub"), Entry { owners: vec![owner("networks.x")], ..accept })];

        for steps in [&in_place, &rebuild] {
            nft("add table inet other");
            let text = nft("list ruleset");
            let error = firewall.run(steps, &mut Writes::new()).unwrap_err();
            let (head, tail) = error.message.split_once(" (process ").unwrap();
            assert_eq!(error.errno, libc::ERESTART);
            assert_eq!(head, "the firewall was changed meanwhile by nft");
            assert_eq!(tail.split_once("); ").unwrap().1, "nothing was done");
            assert_eq!(nft("list ruleset"), text);
            assert_eq!(read(&mut firewall), before);
            nft("delete table inet other");
            firewall.read().unwrap();
        }

        // A change before the read is none; one of our own is none either.
        run(&mut firewall, &in_place);
        run(&mut firewall, &inverse(&in_place));
        assert_eq!(read(&mut firewall), before);

        // Ten thousand elements do not drown the name of who added them.
        let elements: Vec<String> = (0..10_000).map(|i| format!("{}.{}", 10 + i / 250, i % 250)).collect();
        nft(&format!("add table ip t; add set ip t s {{ type ipv4_addr; }}; add element ip t s {{ 10.0.{} }}", elements.join(", 10.0.")));
        let error = firewall.run(&in_place, &mut Writes::new()).unwrap_err();
        assert!(error.message.starts_with("the firewall was changed meanwhile by nft (process "), "{error}");
    }

    fn a_failing_step_leaves_nothing_and_is_named() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        let before = listing();

        // The second of three elements is there already.
        let new = |port_number| element("any4", vec![UDP, port(port_number)], to(vec![ip4("10.1.0.4"), port(53)]), "containers.dns");
        let steps = create(&[new(1), find(&all, "element any4 { tcp . 8081 }").clone(), new(2)]);
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EEXIST, "create element any4 { tcp . 8081 }: File exists (EEXIST)"));

        // A rule whose map is not there, between two chains that are well.
        let lost = vec![vec![Expr::Vmap { fields: vec![Field::Iifname], map: name("lost") }]];
        let steps = create(&[chain("a", None, vec![]), chain("b", None, lost), chain("c", None, vec![vec![DROP]])]);
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::ENOENT, "create chain b: No such file or directory (ENOENT)"));

        // A chain that is still jumped to.
        let error = firewall.run(&delete(&[find(&all, "chain sub").clone()]), &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EBUSY, "delete chain sub: Device or resource busy (EBUSY)"));

        // A loop, which the kernel finds at the end only.
        let around = vec![vec![Expr::Verdict(Verdict::Jump(name("sub")))]];
        let steps = [change(find(&all, "chain sub"), chain("", None, around).1)];
        let error = firewall.run(&steps, &mut Writes::new()).unwrap_err();
        assert_eq!((error.errno, error.message.as_str()), (libc::EMLINK, "update chain sub: Too many links (EMLINK)"));

        // What makes no sense is not even sent.
        let nonsense = vec![vec![is(Field::IpSaddr, ip6("::1")), DROP]];
        let error = firewall.run(&create(&[chain("d", None, nonsense)]), &mut Writes::new()).unwrap_err();
        let message = "create chain d: `ip saddr ::1` is no rule of nftables: the value is not of the field's type";
        assert_eq!((error.errno, error.message.as_str()), (0, message));

        assert_eq!(listing(), before);
        assert_eq!(read(&mut firewall), state(&all));
    }

    #[cfg(feature = "fault-injection")]
    fn a_write_that_fails_keeps_the_others_from_happening() {
        if std::env::var_os("NETREC_FAULT").is_some() {
            let mut firewall = Firewall::open().unwrap();
            let error = firewall.run(&create(&small()), &mut Writes::new()).unwrap_err();
            let message = "create chain forward: No buffer space available (ENOBUFS)";
            assert_eq!((error.errno, error.message.as_str()), (libc::ENOBUFS, message));
            assert_eq!(nft("list ruleset"), "");
            return;
        }
        again("failures::a_write_that_fails_keeps_the_others_from_happening", &["-Urn"], ("NETREC_FAULT", "fail:4:ENOBUFS"));
    }

    fn without_the_capability_it_says_so() {
        // A user namespace has no say over the network namespace it was made in. Only a process without threads can
        // enter one, so `unshare` does it; inside, the network namespace is the one of this test.
        if std::env::var_os("NETREC_TEST_POWERLESS").is_some() {
            let error = Firewall::open().unwrap_err();
            assert_eq!(error.to_string(), "reading the firewall needs root (CAP_NET_ADMIN)");
            return;
        }
        again("failures::without_the_capability_it_says_so", &["-U"], ("NETREC_TEST_POWERLESS", "1"));
    }
}
