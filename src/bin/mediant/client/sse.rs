//! Reads server-sent events from bytes as they come.

use serde_json::Value;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(crate) id: Option<i64>,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// Bytes that are no whole event yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    pending: Vec<u8>,
}

impl Events {
    /// The events that are whole once these bytes have come. Comments, which keep the connection alive, are none.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.pending.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.pending.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.pending.drain(..end + 2).collect();
            events.extend(event(&String::from_utf8_lossy(&block)));
        }
        events
    }
}

fn event(block: &str) -> Option<Event> {
    let field = |name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim_start))
    };
    let data = serde_json::from_str(field("data")?).ok()?;
    let id = field("id").and_then(|id| id.parse().ok());
    Some(Event { id, kind: field("event").unwrap_or("message").to_owned(), data })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let bytes = b": alive\n\nid: 7\nevent: progress\ndata: {\"units_done\":3}\n\nid: 8\nevent: state\ndata: {\"state\":\"x\"}\n\n";
        for size in [1, 3, bytes.len()] {
            let mut events = Events::default();
            let found: Vec<Event> = bytes.chunks(size).flat_map(|part| events.push(part)).collect();
            assert_eq!(found.len(), 2);
            assert_eq!(
                found[0],
                Event { id: Some(7), kind: "progress".to_owned(), data: json!({"units_done": 3}) }
            );
            assert_eq!(found[1].kind, "state");
        }
    }
}
