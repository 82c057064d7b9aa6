//! `/metrics`: what the broker has counted, in Prometheus text format 0.0.4.

use posthaste_broker::Broker;
use std::fmt::Write;

/// All metrics of this moment.
pub async fn text(broker: &Broker) -> String {
    let mut out = String::new();
    let metrics = broker.metrics();
    let _ = writeln!(out, "# TYPE posthaste_published_total counter");
    let _ = writeln!(out, "posthaste_published_total {}", metrics.published.value());
    out
}
