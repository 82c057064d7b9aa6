//! The codec and the sessions through their public surfaces.

mod client;
mod content;
mod declarations;
mod golden;
mod hostile;
mod lifecycle;
mod messages;
mod oracle;
mod support;
