//! As many files open at a time as the system grants this process. The usual soft limit of 1024 is for
//! programs that use `select`; a daemon with many peers and readers reaches it, and each object that
//! cannot be opened then is read late.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one.
pub fn allow_all() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Refused, the old limit stays, and what meets it is tried again.
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        eprintln!("dfs-daemon: the limit of open files stays: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(512),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, low).unwrap();
        allow_all();
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
