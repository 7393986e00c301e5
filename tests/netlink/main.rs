//! Links, addresses, routes, namespaces and parameters: written by steps, read back as state, and seen by `ip` and
//! `bridge` as an independent witness.
//!
//! Each test runs in network and mount namespaces of its own: it starts itself again under `unshare`, as root or, for
//! others, in a user namespace.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod addresses;
#[cfg(feature = "fault-injection")]
mod faults;
mod host;
mod lab;
mod links;
mod namespaces;
mod overlay;
mod shaping;
mod tunnels;

use netrec::kernel::{Backend, Linux};
use netrec::state::{Scope, State, Step};

use lab::{delete, json, lab, make, run, sh, small_shop};

#[test]
fn what_was_written_is_read_back() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let wanted = make(&mut linux, &small_shop());
        assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), wanted);
        // Without a scope the marks alone tell.
        assert_eq!(linux.live(&Scope::default()).unwrap(), wanted);
        for phase in small_shop().into_iter().rev() {
            run(&mut linux, phase.into_iter().map(delete));
        }
        assert_eq!(linux.live(&Scope::of(&wanted)).unwrap(), State::new());
        assert_eq!(json("ip -j link").as_array().unwrap().len(), 1);
        assert_eq!(sh("ls /run/netns"), "");
    });
}

#[test]
fn what_is_gone_already_is_deleted() {
    lab(|| {
        let mut linux = Linux::open().unwrap();
        let phases = small_shop();
        make(&mut linux, &phases);
        let steps: Vec<Step> = phases.into_iter().flatten().map(delete).collect();
        run(&mut linux, steps.clone());
        assert_eq!(linux.live(&Scope::default()).unwrap(), State::new());
        // Without the namespace there is nothing to look into for the rest.
        run(&mut linux, steps);
    });
}
