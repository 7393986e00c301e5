//! To make what netrec made look like another program's: a rehearsal makes the machines with netrec's own code, and what
//! their netrec meets there is to be as it would be on a real one. Routes of its own by a device of another netrec's would
//! be taken for that one's.

use super::ReadError;
use super::fault::Writes;
use super::live::{dump_error, read_error};
use super::netlink::route::NewRoute;
use super::netlink::{address, link, route};
use super::transport::{Refusal, Request, Socket};
use crate::state::{InterfaceName, Netns, PROTOCOL, RT_TABLE_MAIN};

/// `RTPROT_STATIC`: of an administrator's.
const STATIC: u8 = 4;

/// Takes netrec's marks from a device of the calling thread's namespace, from its addresses and from the routes of the main
/// table.
pub fn disown(device: InterfaceName) -> Result<(), ReadError> {
    let failed = |refusal: &Refusal| read_error(device.as_str(), refusal);
    let mut socket = Socket::open().map_err(|error| failed(&error.into()))?;
    let index = link::index(&mut socket, device).map_err(|refusal| failed(&refusal))?;
    let addresses = address::dump(&mut socket).map_err(|e| dump_error("addresses", &Netns::HOST, e))?;
    let routes = route::dump_of(&mut socket, PROTOCOL).map_err(|e| dump_error("routes", &Netns::HOST, e))?;
    let mut requests: Vec<Request> = vec![link::disown(device)];
    requests
        .extend(addresses.iter().filter(|a| a.protocol == PROTOCOL).map(|a| address::disown(a.index, (a.ip, a.peer))));
    requests.extend(routes.into_iter().filter(|r| r.table == RT_TABLE_MAIN && r.index == Some(index)).map(|raw| {
        let scope = raw.unusual_scope();
        let route::RawRoute { to, table, metric, via, index, onlink, src, kind, .. } = raw;
        route::add(&NewRoute { to, table, metric, protocol: STATIC, via, index, onlink, src, scope, kind }, true)
    }));
    let done: Result<(), Refusal> = socket.batch(requests, &mut Writes::default()).into_iter().collect();
    done.map_err(|refusal| failed(&refusal))
}
