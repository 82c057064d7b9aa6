//! AlterConfigs (33): replaces all settings of topics.

use super::create_topics::Failure;
use super::incremental_alter_configs::{alter, outcome};
use crate::context::Context;
use crate::settings::Change;
use crate::wire::ErrorCode;
use crate::wire::messages::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};

pub async fn handle(cx: &Context, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let altered = match changes(&resource) {
            Ok(changes) => {
                let name = &resource.resource_name;
                alter(cx, resource.resource_type, name, false, changes, request.validate_only).await
            }
            Err(failure) => Err(failure),
        };
        let (error_code, error_message) = outcome(altered);
        responses.push(AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    AlterConfigsResponse { responses, ..Default::default() }
}

fn changes(resource: &AlterConfigsResource) -> Result<Vec<(&str, Change<'_>)>, Failure> {
    let mut changes = Vec::with_capacity(resource.configs.len());
    for config in &resource.configs {
        let Some(value) = &config.value else {
            return Err((
                ErrorCode::InvalidConfig,
                format!("Null value not supported for : {}", config.name),
            ));
        };
        changes.push((&*config.name, Change::Set(value)));
    }
    Ok(changes)
}
