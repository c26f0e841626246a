//! tokio-tungstenite：参数是地址、令牌。说什么见 README.md。

use futures_util::{SinkExt, StreamExt};
use serde_json::{json, Value};
use tokio::io::{stdin, AsyncReadExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{frame::coding::CloseCode, CloseFrame};
use tokio_tungstenite::tungstenite::Message;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let mut request = arguments[1].as_str().into_client_request()?;
    let offered = format!("meeting-push.v1, bearer.{}", arguments[2]);
    request.headers_mut().insert("Sec-WebSocket-Protocol", offered.parse()?);
    let (mut socket, _) = connect_async(request).await?;
    let (mut input, mut byte, mut leaving) = (stdin(), [0u8; 1], false);
    let mut code = 1000;
    loop {
        tokio::select! {
            heard = socket.next() => match heard {
                Some(Ok(Message::Text(text))) => {
                    println!("{text}");
                    let frame: Value = serde_json::from_str(&text)?;
                    let ids = message_ids(&frame);
                    if !ids.is_empty() {
                        let ack = json!({"type": "ack", "message_ids": ids, "request_id": 1});
                        socket.send(Message::text(ack.to_string())).await?;
                    }
                }
                Some(Ok(Message::Close(frame))) => {
                    code = frame.map_or(1005, |frame| u16::from(frame.code));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
            read = input.read(&mut byte), if !leaving => if read? == 0 {
                leaving = true;
                let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                socket.close(Some(frame)).await?;
            },
        }
    }
    println!("{}", json!({"type": "closed", "code": code}));
    std::process::exit(0); // 标准输入的线程还在读
}

fn message_ids(frame: &Value) -> Vec<&str> {
    let messages = match frame["messages"].as_array() {
        Some(batch) => batch.iter().collect(),
        None => vec![frame],
    };
    let pushed = messages.into_iter().filter(|one| one["type"] == "new_message");
    pushed.filter_map(|one| one["message_id"].as_str()).collect()
}
