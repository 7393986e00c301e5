//! Writes that fail and crashes, at every place.

use netrec::kernel::{Backend, Linux, StepError};
use netrec::state::{Scope, State, Step};

use super::lab::*;

/// Whether the test, run once more with a fault, goes through.
fn survives(fault: &str) -> bool {
    again("", &[("NETREC_FAULT", fault)]).contains("1 passed")
}

#[test]
fn a_write_that_fails_fails_its_own_step_only() {
    if is_again() {
        let mut linux = Linux::open().unwrap();
        let steps: Vec<Step> = (0..9).map(|i| create(bridge(&format!("nr-{i}")))).collect();
        let outcomes = linux.run(&steps);
        let failed: Vec<usize> = (0..9).filter(|i| outcomes[*i].is_err()).collect();
        assert_eq!(failed, [4]);
        let message = "create link nr-4 in host: Device or resource busy";
        assert_eq!(outcomes[4], Err(StepError { errno: 16, message: message.into() }));
        return;
    }
    lab(|| {
        assert!(survives("fail:5:EBUSY"));
        let mut linux = Linux::open().unwrap();
        let wanted = (0..9).filter(|i| *i != 4).map(|i| bridge(&format!("nr-{i}"))).collect();
        assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
    });
}

#[test]
fn a_step_that_fails_half_way_changes_nothing() {
    let rename = |fault: &str| {
        let (key, before) = veth("ve-web-1a2b3c", &web(), 2);
        let mut after = before.clone();
        (link_of(&mut after).device.mtu, link_of(&mut after).device.up) = (1300, false);
        (peer_of(&mut after).device.mtu, peer_of(&mut after).name) = (1300, name("net0"));
        let renamed = Some(Box::new(link_key("ve-shop")));
        let step = Step { key, renamed, before: Some(before), after: Some(after) };
        let outcome = Linux::open().unwrap().run(&[step]).remove(0);
        assert_eq!(
            outcome.map_err(|e| e.message),
            Err("change link ve-web-1a2b3c in host: Device or resource busy".into()),
            "{fault}"
        );
    };
    let bridge = bridge("nr-back");
    if is_again() {
        let fault = std::env::var("NETREC_FAULT").unwrap();
        if fault == "fail:2:EBUSY" && std::env::var_os("CREATE").is_some() {
            Linux::open().unwrap().run(&[create(bridge)]).remove(0).unwrap_err();
        } else {
            rename(&fault);
        }
        return;
    }
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        let wanted = make(&mut linux, &phases[..2]);
        // Down, two names, two times settings.
        for n in 1..=5 {
            assert!(survives(&format!("fail:{n}:EBUSY")));
            assert_eq!(linux.live(&Scope::default()).unwrap(), wanted, "{n}");
        }
        let output = again("", &[("NETREC_FAULT", "fail:2:EBUSY"), ("CREATE", "1")]);
        assert!(output.contains("1 passed"), "{output}");
        assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
    });
}

#[test]
fn links_whose_deletion_fails_do_not_stay_among_the_leaving() {
    let bridges = || (0..3).map(|i| bridge(&format!("nr-{i}")));
    if is_again() {
        for outcome in Linux::open().unwrap().run(&bridges().map(delete).collect::<Vec<_>>()) {
            assert_eq!(outcome.unwrap_err().errno, 16);
        }
        return;
    }
    lab(|| {
        let mut linux = Linux::open().unwrap();
        run(&mut linux, bridges().map(create));
        assert!(survives("fail:4:EBUSY"));
        assert_eq!(linux.live(&Scope::default()).unwrap(), bridges().collect());
    });
}

#[test]
fn a_crash_at_any_write_leaves_a_marked_namespace_or_none() {
    if is_again() {
        return run(&mut Linux::open().unwrap(), [create(namespace(&web()))]);
    }
    lab(|| {
        let wanted: State = [namespace(&web())].into_iter().collect();
        for n in 1.. {
            let finished = survives(&format!("die:{n}"));
            let mut linux = Linux::open().unwrap();
            let live = linux.live(&Scope::of(&wanted)).unwrap();
            if finished {
                assert_eq!((live, n > 4), (wanted, true));
                break;
            }
            assert_eq!(live, State::new(), "after a crash at write {n}");
            // What is left is in nobody's way.
            run(&mut linux, [create(namespace(&web()))]);
            assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), wanted);
            run(&mut linux, [delete(namespace(&web()))]);
            sh("umount -l /run/netns; rm -r /run/netns");
        }
    });
}
