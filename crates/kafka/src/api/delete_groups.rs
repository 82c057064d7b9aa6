//! DeleteGroups (42): deletes groups and what they have committed.

use crate::context::Context;
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};

pub async fn handle(cx: &Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let deleted = match group_name(&group_id) {
            Ok(group) => cx.client.delete_group(&group).await.map_err(|error| reply::group(&error)),
            Err(error_code) => Err(error_code),
        };
        let error_code = deleted.err().unwrap_or(ErrorCode::None);
        results.push(DeletableGroupResult { group_id, error_code });
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
