//! nnsight's client, as far as the wire goes: the form, the websocket, the archive that `torch.load` reads.

use std::io::{Cursor, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{self, Server};

const PATIENCE: Duration = Duration::from_mins(3);
const BOUNDARY: &str = "a-boundary-that-is-in-no-block";

/// A server that runs blocks.
pub(crate) fn serving(settings: &[(&str, &str)]) -> Server {
    let server = Server::start("", &with_blocks(settings));
    until_serving(&server);
    server
}

pub(crate) fn with_blocks<'s>(settings: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    [("REMOTE__SOURCE", "sandbox")].iter().chain(settings).copied().collect()
}

/// Waits until the sandbox is checked. A machine that cannot run blocks fails here.
pub(crate) fn until_serving(server: &Server) {
    server::until(
        "blocks",
        || {
            let status = server::get(server.address, "/status").body;
            let reason = &status["server"]["reason"];
            assert!(
                reason.is_null() || reason == "the sandbox is being checked",
                "{reason}\n{}",
                server.log()
            );
            status["server"]["blocks"] == true
        },
        || server.log(),
    );
}

/// A captured request.
pub(crate) fn block(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/remote/{name}.block", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

/// A captured session with another source: its block has the names `model`, `nnsight` and `P`, a prompt of 17 tokens.
pub(crate) fn block_of(source: &str) -> Vec<u8> {
    let mut data = zstd::stream::decode_all(block("session_loop").as_slice()).unwrap();
    let said = b"outs = nnsight.save";
    let at = data.windows(said.len()).position(|bytes| bytes == said).unwrap();
    let length = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap()) as usize;
    // A text is an `X`, its length and itself.
    let start = (5..at)
        .rev()
        .find(|start| data[start - 5] == b'X' && (at..data.len()).contains(&(start + length(start - 4))));
    let (start, end) = start.map(|start| (start, start + length(start - 4))).unwrap();
    // The whole is one frame, whose length stands at its head.
    let frame = u64::from_le_bytes(data[3..11].try_into().unwrap());
    assert_eq!((data[2], frame), (0x95, data.len() as u64 - 11));
    data.splice(start..end, source.bytes());
    data[start - 4..start].copy_from_slice(&(source.len() as u32).to_le_bytes());
    let frame = data.len() as u64 - 11;
    data[3..11].copy_from_slice(&frame.to_le_bytes());
    zstd::bulk::compress(&data, 1).unwrap()
}

/// The envelope that nnsight sends for the served model.
pub(crate) fn envelope(session: &str) -> Value {
    let key = json!({"repo_id": "dummy-tiny", "revision": null, "task": "text-generation"});
    json!({
        "model_key": format!("nnsight.modeling.transformers.TransformersModel:{key}"),
        "session_id": session,
        "compress": true,
        "env": {"attn_implementation": "sdpa"},
    })
}

/// The form of a request.
pub(crate) fn form(envelope: &str, block: &[u8]) -> Vec<u8> {
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n{envelope}\r\n--{BOUNDARY}\r\n\
         Content-Disposition: form-data; name=\"blob\"; filename=\"request\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend(block);
    body.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
    body
}

/// Sends a form; the status and the answer.
pub(crate) fn post(address: SocketAddr, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nnnsight-version: 0.8.1\r\n\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a long body may close before it is sent.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Hands a block in without a websocket; the job's id.
pub(crate) fn submit(server: &Server, path: &str, block: &[u8]) -> String {
    submit_as(server, path, &envelope(""), block)
}

/// The same with an envelope of one's own.
pub(crate) fn submit_as(server: &Server, path: &str, envelope: &Value, block: &[u8]) -> String {
    let (status, answer) = post(server.address, path, &form(&envelope.to_string(), block));
    assert_eq!((status, &answer["status"]), (200, &json!("RECEIVED")), "{answer}\n{}", server.log());
    answer["id"].as_str().unwrap().to_owned()
}

/// Asks until a job is over.
pub(crate) fn poll(server: &Server, id: &str) -> Value {
    let began = Instant::now();
    loop {
        let answer = server::get(server.address, &format!("/response/{id}"));
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, server.log());
        if matches!(answer.body["status"].as_str(), Some("COMPLETED" | "ERROR")) {
            return answer.body;
        }
        assert!(began.elapsed() < PATIENCE, "never over: {}\n{}", answer.body, server.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The result that a status names, unpacked.
pub(crate) fn fetch(server: &Server, status: &Value) -> Vec<u8> {
    assert_eq!(
        status["status"],
        "COMPLETED",
        "{}\n{}",
        status["description"].as_str().unwrap_or_default(),
        server.log()
    );
    let address = format!("http://{}", server.address);
    let url = status["data"].as_str().unwrap();
    // The tests' own requests name another host.
    let path = url.strip_prefix(&address).or_else(|| url.strip_prefix("http://x")).unwrap();
    unpacked(&server::bytes(server.address, path))
}

pub(crate) fn unpacked(packed: &[u8]) -> Vec<u8> {
    // As the client does it: the size must stand in the frame's head.
    let size =
        zstd::zstd_safe::get_frame_content_size(packed).unwrap().expect("the size of the content") as usize;
    zstd::bulk::decompress(packed, size).unwrap()
}

/// The numbers of the tensors of an archive, in the order in which they were saved.
pub(crate) fn tensors(archive: &[u8]) -> Vec<Vec<f32>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let folder = names[0].split('/').next().unwrap().to_owned();
    let mut found = Vec::new();
    while let Ok(mut file) = archive.by_name(&format!("{folder}/data/{}", found.len())) {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        found.push(bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect());
    }
    found
}

/// A websocket as nnsight opens it.
pub(crate) struct Socket {
    stream: TcpStream,
    pub(crate) session: String,
}

/// What comes over it.
#[derive(Debug)]
pub(crate) enum Message {
    Text(Value),
    Binary(Vec<u8>),
}

impl Socket {
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        let mut socket = Self { stream, session: String::new() };
        let Message::Text(greeting) = socket.next() else { panic!("a greeting is text") };
        socket.session = greeting["session_id"].as_str().unwrap().to_owned();
        socket
    }

    /// The next message; pings are passed over.
    pub(crate) fn next(&mut self) -> Message {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).unwrap();
            let length = match head[1] {
                126 => u64::from(u16::from_be_bytes(self.take())),
                127 => u64::from_be_bytes(self.take()),
                short => u64::from(short),
            };
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body).unwrap();
            match head[0] {
                0x81 => return Message::Text(serde_json::from_slice(&body).unwrap()),
                0x82 => return Message::Binary(body),
                0x89 => {}
                other => panic!("a frame that begins with {other:#x}"),
            }
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}
