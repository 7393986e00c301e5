//! What others put into netrec's table.

use super::*;

isolated! {
    fn what_others_put_into_the_table_is_seen_and_removed() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        let pure = listing();
        nft("add rule inet netrec sub counter accept
            insert rule inet netrec sub tcp dport { 22, 23 } accept
            add rule inet netrec forward drop comment \"mine\"
            add rule inet netrec forward meta nfproto ipv4 iifname \"br*\" ip saddr 10.0.0.1 limit rate 1/second accept
            add chain inet netrec theirs
            add rule inet netrec theirs jump { accept; }
            add chain inet netrec route { type route hook output priority 0; }
            add set inet netrec plain { type ipv4_addr; }
            add set inet netrec ranges { type ipv4_addr; flags interval; }
            add element inet netrec ranges { 10.0.0.0/8 }
            add set inet netrec times { type ipv4_addr; timeout 1h; }
            add set inet netrec marks { type mark; }
            add element inet netrec marks { 1 }
            add element inet netrec plain { 10.0.0.1 }
            add element inet netrec any4 { udp . 1 : 10.0.0.1 . 2 }
            add element inet netrec from { \"odd:name\" : accept }
            add counter inet netrec pkts");
        let live = read(&mut firewall);
        let chain_text = |name: &str| match &live.get(&Key::Chain { name: name.into() }).unwrap().object {
            Object::Chain(chain) => chain.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            _ => String::new(),
        };
        let set_text = |name: &str| match &live.get(&Key::Set { name: name.into() }).unwrap().object {
            Object::Set(set) => set.to_string(),
            _ => String::new(),
        };
        assert_eq!(chain_text("sub"), "meta l4proto tcp # not netrec's: payload lookup accept; drop; # not netrec's: counter accept");
        assert_eq!(
            chain_text("forward"),
            "iifname vmap @from; drop # not netrec's: comment; \
             meta nfproto ipv4 # not netrec's: meta cmp payload cmp limit accept"
        );
        assert_eq!(chain_text("theirs"), "# not netrec's: immediate");
        assert_eq!(chain_text("route"), "# not netrec's: type route hook 3 priority 0");
        assert_eq!(set_text("plain"), "ipv4_addr");
        assert_eq!(set_text("ranges"), "ipv4_addr . unknown(1)");
        assert_eq!(set_text("times"), "ipv4_addr . unknown(1)");
        assert_eq!(set_text("marks"), "unknown(19) . unknown(1)");
        assert_eq!(set_text("from"), "ifname . unknown(0) : verdict");
        let table = live.get(&Key::Table).unwrap();
        let foreign = vec!["counter pkts".to_owned()];
        assert_eq!(*table, Entry::new(Object::Table(Table { dormant: false, foreign }), Owner::netrec()));

        // What a plan would do: whatever differs is changed, whatever is not wanted goes.
        let wanted = state(&all);
        let mut steps = Vec::new();
        for (key, entry) in &live {
            if wanted.get(key) != Some(entry) {
                steps.push(Step::new(key.clone(), Some(entry.clone()), wanted.get(key).cloned()));
            }
        }
        let names: Vec<String> = steps.iter().map(|step| step.key.to_string()).collect();
        assert_eq!(names, [
            "table inet netrec", "set from", "set marks", "set plain", "set ranges", "set times", "chain forward",
            "chain route", "chain sub", "chain theirs", "element any4 { udp . 1 }", "element plain { 10.0.0.1 }",
        ]);
        run(&mut firewall, &steps);
        assert_eq!(read(&mut firewall), wanted);
        assert_eq!(sorted_elements(&listing()), sorted_elements(&pure));

        // As far as it can, undoing puts back what was there.
        run(&mut firewall, &inverse(&steps));
        let text = listing();
        assert!(text.contains("chain sub {\n\t\tcomment \"netrec networks.front\"\n\t\tdrop\n\t}"), "{text}");
        assert!(text.contains("set plain") && !text.contains("theirs") && !text.contains("ranges"), "{text}");
        assert!(text.contains("udp . 1 : 10.0.0.1 . 2"), "{text}");
    }

    fn foreign_chains_and_sets_go_without_a_rebuild() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        nft("add chain inet netrec theirs
            add rule inet netrec theirs tcp dport { 22, 23 } counter accept
            add set inet netrec ranges { type ipv4_addr; flags interval; }
            add element inet netrec ranges { 10.0.0.0/8 }
            add rule inet netrec theirs ip saddr @ranges drop
            add rule inet netrec sub jump { ip saddr @ranges drop; }
            add element inet netrec any4 { udp . 1 : 10.0.0.1 . 2 }");
        let live = read(&mut firewall);
        let wanted = state(&all);
        let steps: Vec<Step> = live
            .iter()
            .filter(|(key, entry)| wanted.get(key) != Some(entry))
            .map(|(key, entry)| Step::new(key.clone(), Some(entry.clone()), wanted.get(key).cloned()))
            .collect();
        let names: Vec<String> = steps.iter().map(|step| step.key.to_string()).collect();
        assert_eq!(names, ["set ranges", "chain sub", "chain theirs", "element any4 { udp . 1 }"]);
        let mut writes = Writes::new();
        firewall.run(&steps, &mut writes).unwrap();
        assert_eq!(writes.count(), 6);
        assert_eq!(read(&mut firewall), wanted);
    }

    fn a_table_that_somebody_else_made_is_ours() {
        nft("add table inet netrec { comment \"hello\"; flags dormant; }; add chain inet netrec sub { comment \"hello\"; }");
        let mut firewall = Firewall::open().unwrap();
        let live = read(&mut firewall);
        let unmarked = |object| Entry { object, owners: vec![], standing: Standing::default() };
        assert_eq!(live, state(&[
            (Key::Table, unmarked(Object::Table(Table { dormant: true, foreign: vec![] }))),
            (Key::Chain { name: "sub".into() }, unmarked(Object::Chain(Chain { base: None, rules: vec![] }))),
        ]));
        run(&mut firewall, &[Step::new(Key::Table, live.get(&Key::Table).cloned(), Some(table().1))]);
        assert_eq!(listing(), "table inet netrec {\n\tcomment \"netrec netrec\"\n\tchain sub {\n\t}\n}\n");
    }

    fn a_table_that_sleeps_is_woken_and_put_to_sleep_again() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()));
        let awake = listing();
        nft("add table inet netrec { flags dormant; }");
        let asleep = listing();
        let live = read(&mut firewall);
        let dormant = Entry::new(Object::Table(Table { dormant: true, foreign: vec![] }), Owner::netrec());
        assert_eq!(live.get(&Key::Table), Some(&dormant));
        let wake = [change(&(Key::Table, dormant), table().1)];
        run(&mut firewall, &wake);
        assert_eq!(sorted_elements(&listing()), sorted_elements(&awake));
        run(&mut firewall, &inverse(&wake));
        assert_eq!(sorted_elements(&listing()), sorted_elements(&asleep));
        assert_eq!(read(&mut firewall), live);
    }

    fn the_table_names_what_else_is_in_it() {
        let mut firewall = Firewall::open().unwrap();
        run(&mut firewall, &create(&small()[..1]));
        nft("add counter inet netrec b
            add counter inet netrec a
            add quota inet netrec q { 1 mbytes }
            add limit inet netrec l { rate 1/second }");
        let live = read(&mut firewall);
        let foreign = ["counter a", "counter b", "limit l", "quota q"].map(str::to_owned).to_vec();
        let more = Entry::new(Object::Table(Table { dormant: false, foreign }), Owner::netrec());
        assert_eq!(live, state(&[(Key::Table, more.clone())]));
        let rid = [change(&(Key::Table, more), table().1)];
        run(&mut firewall, &rid);
        assert_eq!(read(&mut firewall), state(&[table()]));
        // None of them can be made again; the table is as netrec wants it.
        run(&mut firewall, &inverse(&rid));
        assert_eq!(read(&mut firewall), state(&[table()]));
    }

    fn a_rebuild_makes_no_foreign_chain_without_its_rules() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        let pure = listing();
        let foreign = "add counter inet netrec foo
            add set inet netrec bar { type ipv4_addr; flags interval,timeout; }
            add chain inet netrec evil { type filter hook forward priority 5; policy drop; }
            add rule inet netrec evil ip saddr @bar accept
            add chain inet netrec inner
            add rule inet netrec inner ip saddr @bar accept
            add chain inet netrec outer { type filter hook forward priority 6; policy drop; }
            add rule inet netrec outer jump inner
            add element inet netrec from { \"br9\" : jump inner }
            add map inet netrec via { type ifname : verdict; }
            add element inet netrec via { \"br9\" : jump inner }
            add chain inet netrec last { type filter hook forward priority 7; policy drop; }
            add rule inet netrec last iifname vmap @via";
        nft(&format!("{foreign}
            add chain inet netrec plain {{ type filter hook forward priority 8; policy drop; }}
            add rule inet netrec plain ip saddr 10.0.0.1 accept"));
        let live = read(&mut firewall);
        let wanted = state(&all);
        let (removals, changes): (Vec<Step>, Vec<Step>) = live
            .iter()
            .filter(|(key, entry)| wanted.get(key) != Some(entry))
            .map(|(key, entry)| Step::new(key.clone(), Some(entry.clone()), wanted.get(key).cloned()))
            .partition(|step| step.after.is_none());
        let names = |steps: &[Step]| steps.iter().map(|step| step.key.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&changes), ["table inet netrec"]);
        assert_eq!(names(&removals), [
            "set bar", "set via", "chain evil", "chain inner", "chain last", "chain outer", "chain plain",
            "element from { \"br9\" }", "element via { \"br9\" }",
        ]);

        // As an apply does: first what is made anew, then what goes, of which not all is there any more.
        run(&mut firewall, &changes);
        let left: Vec<String> =
            read(&mut firewall).iter().filter(|(key, _)| wanted.get(key).is_none()).map(|(key, _)| key.to_string()).collect();
        assert_eq!(left, ["chain plain"]);
        run(&mut firewall, &removals);
        assert_eq!(read(&mut firewall), wanted);
        assert_eq!(sorted_elements(&listing()), sorted_elements(&pure));
        run(&mut firewall, &removals); // and once more, with nothing there

        // Undone, at once or one after the other: what can be had whole is there again, nothing else.
        let both: Vec<Step> = removals.iter().chain(&changes).cloned().collect();
        for steps in [&removals, &both] {
            run(&mut firewall, &inverse(steps));
            let back: Vec<String> =
                read(&mut firewall).iter().filter(|(key, _)| wanted.get(key).is_none()).map(|(key, _)| key.to_string()).collect();
            assert_eq!(back, ["chain plain"]);
            run(&mut firewall, &removals);
            assert_eq!(read(&mut firewall), wanted);
        }
    }

    fn a_foreign_chain_in_the_place_of_netrecs_is_not_put_back_in_part() {
        let mut firewall = Firewall::open().unwrap();
        let all = small();
        run(&mut firewall, &create(&all));
        nft("delete chain inet netrec forward
            add chain inet netrec forward { type filter hook forward priority 0; policy drop; }
            add rule inet netrec forward counter accept");
        let live = read(&mut firewall);
        let key = Key::Chain { name: "forward".into() };
        let mend = [Step::new(key.clone(), live.get(&key).cloned(), Some(find(&all, "chain forward").1.clone()))];
        run(&mut firewall, &mend);
        assert_eq!(read(&mut firewall), state(&all));
        run(&mut firewall, &inverse(&mend));
        assert_eq!(read(&mut firewall), state(&all));
    }
}
