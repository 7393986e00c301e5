//! Writes that fail and crashes, at every place.

use netrec::kernel::{Backend, Linux, StepError};
use netrec::state::{NetnsObject, Object, Scope, State, Step};

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
fn a_step_that_fails_half_way_is_read_as_it_is() {
    let change = || {
        let (key, before) = veth("ve-web-1a2b3c", &web(), 2);
        let mut after = before.clone();
        link_of(&mut after).device.mtu = 1300;
        peer_of(&mut after).device.mtu = 1300;
        Step::new(key, Some(before), Some(after))
    };
    if is_again() {
        let error = Linux::open().unwrap().run(&[change()]).remove(0).unwrap_err();
        assert_eq!(error.message, "change link ve-web-1a2b3c in host: Device or resource busy");
        return;
    }
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let (key, mut wanted) = with_veth(&mut linux);
        // The second message is about the container's end.
        assert!(survives("fail:2:EBUSY"));
        link_of(&mut wanted).device.mtu = 1300;
        assert_eq!(found(&mut linux, &key).unwrap(), wanted);
    });
}

#[test]
fn links_whose_deletion_fails_are_read_as_leaving_and_go_with_the_next() {
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
        let leaving = bridges().map(|(key, mut entry)| {
            link_of(&mut entry).leaving = true;
            (key, entry)
        });
        assert_eq!(linux.live(&Scope::default()).unwrap(), leaving.collect());
        run(&mut linux, [delete(bridge("nr-1"))]);
        assert_eq!(linux.live(&Scope::default()).unwrap(), State::new());
    });
}

#[test]
fn a_crash_at_any_write_leaves_a_marked_namespace_or_an_empty_file() {
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
            // At most the empty file is left, known by its mode; it is taken, or else removed.
            let left = live.iter().next().map(|(_, entry)| entry.clone());
            let unbound = Object::Netns(NetnsObject { lo_up: false, lo_bare: false, unbound: true });
            assert!(
                live.len() <= 1 && left.iter().all(|e| e.object == unbound),
                "after a crash at write {n}: {live:?}"
            );
            let (key, after) = namespace(&web());
            run(&mut linux, [Step::new(key, left, Some(after))]);
            assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), wanted);
            run(&mut linux, [delete(namespace(&web()))]);
            sh("umount -l /run/netns; rm -r /run/netns");
        }
    });
}
