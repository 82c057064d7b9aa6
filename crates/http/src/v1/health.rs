//! `/healthz` and `/readyz`: whether to restart the process, and whether to send it publishers.

use crate::{
    call::{Answer, Reply, Server},
    failure::Failure,
    routes::Operation,
};

/// A full disk is no reason to restart, since consumers go on and make room; but publishers are better sent elsewhere.
pub fn answer(operation: Operation, server: &Server) -> Answer {
    if *server.shared.stopping.borrow() {
        return Err(Failure::unavailable("stopping", "the broker is stopping"));
    }
    if operation == Operation::Readiness && server.broker.no_space() {
        return Err(Failure::unavailable("no_space", "the disk is full; publishers are refused"));
    }
    Ok(Reply::Text("ok\n".to_owned(), "text/plain; charset=utf-8"))
}
