//! DescribeCluster (60): the one broker of the cluster.

use crate::context::Context;
use crate::names::NODE_ID;
use crate::wire::ErrorCode;
use crate::wire::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub fn handle(cx: &Context, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    let error_code = match request.endpoint_type {
        BROKERS => ErrorCode::None,
        // As a broker answers in Kafka (KIP-919).
        CONTROLLERS => ErrorCode::MismatchedEndpointType,
        _ => ErrorCode::UnsupportedEndpointType,
    };
    if error_code.is_error() {
        let error_message = Some("the endpoint of this listener is that of a broker".into());
        return DescribeClusterResponse { error_code, error_message, ..Default::default() };
    }
    let endpoint = cx.endpoint();
    let operations = request.include_cluster_authorized_operations.then(|| cx.cluster_operations());
    DescribeClusterResponse {
        cluster_id: cx.broker().cluster_id().into(),
        controller_id: NODE_ID,
        brokers: vec![DescribeClusterBroker {
            broker_id: NODE_ID,
            host: endpoint.host,
            port: endpoint.port,
            ..Default::default()
        }],
        cluster_authorized_operations: operations.unwrap_or(i32::MIN),
        ..Default::default()
    }
}
