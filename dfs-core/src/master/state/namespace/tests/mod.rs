//! The rules of the namespace, one test each, and a model that random operations are compared with.
mod seven;
mod world;
