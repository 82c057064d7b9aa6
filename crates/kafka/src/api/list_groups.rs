//! ListGroups (16): the groups there are.

use bytestring::ByteString;
use posthaste_engine::group::GroupState;

use super::describe_groups::state_name;
use crate::context::Context;
use crate::reply;
use crate::wire::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};

/// The one type of group there is (KIP-848 has others).
const CLASSIC: &str = "classic";

pub async fn handle(cx: &Context, request: &ListGroupsRequest) -> ListGroupsResponse {
    let groups = match cx.client.list_groups().await {
        Ok(groups) => groups,
        Err(error) => return ListGroupsResponse { error_code: reply::group(&error), ..Default::default() },
    };
    let wanted = |filter: &[ByteString], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let listed = groups
        .into_iter()
        .filter(|group| cx.may_describe_group(&group.group).is_ok())
        .filter(|group| wanted(&request.states_filter, state_name(group.phase)))
        .filter(|_| wanted(&request.types_filter, CLASSIC))
        .map(|group: GroupState| ListedGroup {
            group_id: (&*group.group).into(),
            protocol_type: group.protocol_type.into(),
            group_state: state_name(group.phase).into(),
            group_type: CLASSIC.into(),
        });
    ListGroupsResponse { groups: listed.collect(), ..Default::default() }
}
