//! The codec through its public surface.

mod content;
mod golden;
mod hostile;
mod oracle;
mod support;
