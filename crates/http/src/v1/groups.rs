//! Consumer groups: who is in, and how far they have come.

use crate::{
    call::{Answer, Call, Page, Reply},
    failure::Failure,
};
use posthaste_broker::right;
use posthaste_engine::{
    event::CommittedOffset,
    group::{GroupState, Phase},
};
use serde::Serialize;

#[derive(Serialize)]
struct View {
    name: String,
    /// `empty`, `forming`, `dividing` or `stable`.
    state: &'static str,
    protocol_type: String,
    protocol: String,
    members: Vec<MemberView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offsets: Option<Vec<OffsetView>>,
}

#[derive(Serialize)]
struct MemberView {
    id: String,
    instance: Option<String>,
    client: String,
    host: String,
}

#[derive(Serialize)]
struct OffsetView {
    /// None when the topic is gone, or not for the caller to see.
    topic: Option<String>,
    partition: u32,
    offset: u64,
    /// Of the partition; none when it is gone.
    end: Option<u64>,
    lag: Option<u64>,
    metadata: String,
    committed_ms: i64,
}

#[derive(Serialize)]
struct List {
    groups: Vec<View>,
    next: Option<String>,
}

pub async fn list(call: &Call) -> Answer {
    let page: Page = call.parameters()?;
    page.count()?;
    let groups = call.client.list_groups().await?;
    let (groups, next) = page.cut(groups.into_iter(), |g| g.group.as_str())?;
    Reply::json(&List { groups: groups.into_iter().map(|g| view(g, None)).collect(), next })
}

pub async fn describe(call: &Call) -> Answer {
    let name = call.name()?;
    let group = call.client.describe_group(&name).await?.ok_or_else(|| unknown(&name))?;
    let mut offsets = call.client.fetch_offsets(&name, None).await?;
    offsets.sort_by_key(|o| (o.topic, o.partition));
    let offsets = offsets.into_iter().map(|offset| offset_view(call, offset)).collect();
    Reply::json(&view(group, Some(offsets)))
}

pub async fn delete(call: &Call) -> Answer {
    let name = call.name()?;
    call.client.delete_group(&name).await?;
    Ok(Reply::Nothing)
}

fn unknown(name: &str) -> Failure {
    Failure::not_found(format!("there is no group '{name}'"))
}

fn view(group: GroupState, offsets: Option<Vec<OffsetView>>) -> View {
    let state = match group.phase {
        Phase::Empty => "empty",
        Phase::Forming => "forming",
        Phase::Dividing => "dividing",
        Phase::Stable => "stable",
    };
    let members = group.members.into_iter();
    View {
        name: group.group.to_string(),
        state,
        protocol_type: group.protocol_type,
        protocol: group.protocol,
        members: members
            .map(|m| MemberView { id: m.id, instance: m.instance, client: m.client, host: m.host })
            .collect(),
        offsets,
    }
}

fn offset_view(call: &Call, committed: CommittedOffset) -> OffsetView {
    let catalog = call.broker().catalog();
    let topic = catalog.topic_by_id(committed.topic);
    let seen = topic.and_then(|t| call.client.allow::<right::See, _>(t.clone()).ok());
    let partition = seen.as_ref().and_then(|topic| topic.partition(committed.partition as usize));
    let end = partition.and_then(|p| call.client.extent(p).ok()).map(|extent| extent.end());
    OffsetView {
        topic: seen.map(|t| t.name.to_string()),
        partition: committed.partition,
        offset: committed.offset,
        end,
        lag: end.map(|end| end.saturating_sub(committed.offset)),
        metadata: committed.metadata,
        committed_ms: committed.committed.0,
    }
}
