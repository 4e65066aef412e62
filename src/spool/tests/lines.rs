//! What is logged on this thread, for tests that run on one.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

/// Kept until it is dropped.
pub struct Lines {
    text: Text,
    _kept: DefaultGuard,
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub fn keep() -> Self {
        let text = Text::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_writer(move || writer.clone());
        Self {
            text,
            _kept: tracing::subscriber::set_default(subscriber.finish()),
        }
    }

    /// Those of operators' orders.
    pub fn of_orders(&self) -> Vec<Value> {
        let text = self.text.0.lock().expect("not poisoned");
        let lines = String::from_utf8_lossy(&text);
        lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .filter(|line: &Value| line.get("what").is_some())
            .collect()
    }
}
