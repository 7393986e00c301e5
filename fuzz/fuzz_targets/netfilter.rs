//! A datagram of netfilter messages: tables, traces, flows, sockets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netrec::kernel::fuzzing::netfilter;

fuzz_target!(|datagram: &[u8]| {
    netfilter(datagram);
});
