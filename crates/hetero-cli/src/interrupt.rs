//! Ctrl-C: the first one ends a computation after its current step, every other one ends the program.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use hetero_llama::CancelToken;

/// What shells expect of a program that Ctrl-C has ended.
const EXIT_CODE: i32 = 130;

/// Takes Ctrl-C for as long as the program runs.
pub(crate) struct Interrupt {
    /// The computation that the next Ctrl-C ends; `None` while there is nothing to end but the program.
    running: Arc<Mutex<Option<CancelToken>>>,
}

impl Interrupt {
    /// Begins to take Ctrl-C. Where the system refuses, Ctrl-C ends the program as it does by default.
    pub(crate) fn install() -> Interrupt {
        let running: Arc<Mutex<Option<CancelToken>>> = Arc::default();
        let interrupt = Interrupt { running: Arc::clone(&running) };
        let handler = move || {
            let running = running.lock().unwrap_or_else(PoisonError::into_inner);
            match &*running {
                Some(cancel) if !cancel.is_cancelled() => cancel.cancel(),
                _ => {
                    hetero_llama::backends::ended_by_user();
                    process::exit(EXIT_CODE)
                }
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C cannot be taken: {error}");
        }
        interrupt
    }

    /// Runs a computation whose token the next Ctrl-C cancels.
    pub(crate) fn during<T>(&self, computation: impl FnOnce(&CancelToken) -> T) -> T {
        let cancel = CancelToken::default();
        self.set(Some(cancel.clone()));
        let result = computation(&cancel);
        self.set(None);
        result
    }

    fn set(&self, running: Option<CancelToken>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }
}
