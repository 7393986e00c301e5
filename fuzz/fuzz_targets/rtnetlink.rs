//! The body of a route message, as link, address, route, neighbour or entry of a forwarding database.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netrec::kernel::fuzzing::rtnetlink;

fuzz_target!(|body: &[u8]| {
    rtnetlink(body);
});
