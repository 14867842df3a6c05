//! The rules of the namespace, one test each, and a model that random operations are compared with.
mod attrs;
mod commits;
mod compare;
mod histories;
mod model;
mod names;
mod queries;
mod random;
mod seven;
mod space;
mod world;
