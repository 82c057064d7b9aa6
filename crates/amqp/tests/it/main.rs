//! The codec and the sessions through their public surfaces.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod access;
mod client;
mod content;
mod declarations;
mod golden;
mod hostile;
mod lifecycle;
mod limits;
mod messages;
mod oracle;
mod rights;
mod support;
mod tokens;
