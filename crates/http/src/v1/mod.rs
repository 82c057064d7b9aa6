//! The operations, one file for each kind of thing.

mod access_keys;
mod bindings;
mod exchanges;
mod groups;
pub mod health;
mod namespaces;
mod publish;
mod queues;
mod status;
mod stream;
mod stream_queue;
mod stream_subject;
mod stream_topic;
mod take;
mod topic_messages;
mod topics;
mod user_groups;
mod users;

use crate::{
    call::{Answer, Call, Reply},
    metrics,
    routes::Operation,
};

/// Does what a request asks for.
pub async fn run(operation: Operation, call: Call) -> Answer {
    use Operation as O;
    match operation {
        O::Health | O::Readiness => health::answer(operation, &call.server),
        O::Metrics => Ok(Reply::Text(metrics::text(&call).await, metrics::CONTENT_TYPE)),
        O::Status => status::show(&call).await,
        O::ListNamespaces => namespaces::list(&call),
        O::CreateNamespace => namespaces::create(&call).await,
        O::DescribeNamespace => namespaces::describe(&call),
        O::ChangeNamespace => namespaces::change(&call).await,
        O::DeleteNamespace => namespaces::delete(&call).await,
        O::ListTopics => topics::list(&call),
        O::CreateTopic => topics::create(&call).await,
        O::DescribeTopic => topics::describe(&call),
        O::ChangeTopic => topics::change(&call).await,
        O::DeleteTopic => topics::delete(&call).await,
        O::ReadTopic => topic_messages::read(&call).await,
        O::StreamTopic => stream_topic::start(call),
        O::ListQueues => queues::list(&call).await,
        O::CreateQueue => queues::create(&call).await,
        O::DescribeQueue => queues::describe(&call).await,
        O::ChangeQueue => queues::change(&call).await,
        O::DeleteQueue => queues::delete(&call).await,
        O::PurgeQueue => queues::purge(&call).await,
        O::TakeFromQueue => take::take(&call).await,
        O::StreamQueue => stream_queue::start(call).await,
        O::ListExchanges => exchanges::list(&call),
        O::CreateExchange => exchanges::create(&call).await,
        O::DescribeExchange => exchanges::describe(&call),
        O::DeleteExchange => exchanges::delete(&call).await,
        O::ListBindings => bindings::list(&call),
        O::CreateBinding => bindings::create(&call).await,
        O::DeleteBinding => bindings::delete(&call).await,
        O::ListUsers => users::list(&call),
        O::CreateUser => users::create(&call).await,
        O::DescribeUser => users::describe(&call),
        O::PutUser => users::put(&call).await,
        O::DeleteUser => users::delete(&call).await,
        O::CreateAccessKey => access_keys::create(&call).await,
        O::DeleteAccessKey => access_keys::delete(&call).await,
        O::ListUserGroups => user_groups::list(&call),
        O::CreateUserGroup => user_groups::create(&call).await,
        O::DescribeUserGroup => user_groups::describe(&call),
        O::PutUserGroup => user_groups::put(&call).await,
        O::DeleteUserGroup => user_groups::delete(&call).await,
        O::ListGroups => groups::list(&call).await,
        O::DescribeGroup => groups::describe(&call).await,
        O::DeleteGroup => groups::delete(&call).await,
        O::PublishToExchange => publish::to_exchange(&call).await,
        O::PublishToQueue => publish::to_queue(&call).await,
        O::PublishToTopic => publish::to_topic(&call).await,
        O::StreamSubject => stream_subject::start(call).await,
    }
}
