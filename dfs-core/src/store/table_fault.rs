//! Ends the use of a table file that is met damaged while it runs.
//!
//! Everything asked of the engine goes through [`TableFault::guard`]. Damage that no copy heals, and a
//! panic of the engine, are *faults*: from then on every request is answered with the first cause, and
//! the engine is entered no more, so it can neither hang nor answer from half a state. Whoever serves
//! the file asks [`TableFault::cause`], stops serving it and sets it aside. One damaged value is no
//! fault: its checksum names it, and it is repaired by itself.
use super::KvError;
use super::redb_kv::CORRUPTED;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// Whether a table file is past use. See the [module docs](self).
#[derive(Debug, Default)]
pub struct TableFault {
    cause: OnceLock<String>,
}

impl TableFault {
    /// Why the tables are past use.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.get().map(String::as_str)
    }

    /// Runs a step of the engine, unless there was a fault.
    ///
    /// # Errors
    /// Those of the step; damage if there is a fault.
    pub fn guard<T>(&self, step: impl FnOnce() -> Result<T, KvError>) -> Result<T, KvError> {
        self.check()?;
        let done = match catch_unwind(AssertUnwindSafe(step)) {
            Ok(done) => done,
            Err(panic) => {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
                let words = words.unwrap_or("without a word");
                let cause = format!("{CORRUPTED}: the engine panicked: {words}");
                Err(KvError::Engine { cause })
            }
        };
        if let Err(error) = &done
            && error.is_damage()
            && !matches!(error, KvError::Damaged { .. })
        {
            self.cause.get_or_init(|| error.to_string());
        }
        done
    }

    fn check(&self) -> Result<(), KvError> {
        let Some(cause) = self.cause() else {
            return Ok(());
        };
        let cause = format!("{CORRUPTED}: {cause}");
        Err(KvError::Engine { cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_a_panic_of_the_engine_is_an_error_and_ends_its_use() {
        let fault = TableFault::default();
        assert_eq!(fault.guard(|| Ok(7)), Ok(7));
        let single = KvError::Damaged { key: "6b".into() };
        assert_eq!(fault.guard(|| Err::<(), _>(single.clone())), Err(single));
        assert_eq!(fault.cause(), None, "one damaged value is none");
        let error = fault.guard::<()>(|| panic!("page {}", 3)).unwrap_err();
        assert!(
            error.is_damage() && error.to_string().contains("page 3"),
            "{error}"
        );
        let again = fault.guard(|| Ok(7)).unwrap_err();
        assert!(
            again.is_damage() && again.to_string().contains("page 3"),
            "{again}"
        );
    }
}
