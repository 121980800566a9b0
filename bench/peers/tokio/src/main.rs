//! tokio: an echo server on tokio, a task per connection: how Rust programs do it by default.
//!
//! Usage: tokio PORT echo current|multi
//!
//! `current` runs every task on the one thread; `multi` is tokio's own default, a worker thread for each core that the
//! process may use. Left out: logging, limits, timeouts and draining; SIGTERM ends the process by its default action.

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};

const BACKLOG: u32 = 1024;

/// Memory per connection against system calls per byte: tokio::io::copy would take 8 KiB.
const BUFFER_BYTES: usize = 16 * 1024;

struct Arguments {
    port: u16,
    multi: bool,
}

fn read_arguments(words: &[String]) -> Result<Arguments, String> {
    let [port, mode, threads] = words else {
        return Err("usage: tokio PORT echo current|multi".into());
    };
    let port = match port.parse() {
        Ok(number) if number > 0 => number,
        _ => return Err(format!("no port between 1 and 65535: {port:?}")),
    };
    if mode != "echo" {
        return Err(format!("the only mode is echo, not {mode:?}"));
    }
    match threads.as_str() {
        "current" => Ok(Arguments { port, multi: false }),
        "multi" => Ok(Arguments { port, multi: true }),
        _ => Err(format!("neither current nor multi: {threads:?}")),
    }
}

fn build_runtime(multi: bool) -> io::Result<Runtime> {
    let mut builder = if multi {
        Builder::new_multi_thread()
    } else {
        Builder::new_current_thread()
    };
    builder.enable_io().build()
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_nodelay(true)?; // accepted sockets inherit it
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    socket.listen(BACKLOG)
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    while stream.read_buf(&mut buffer).await? > 0 {
        stream.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}

async fn serve(port: u16) -> io::Result<()> {
    let listener = listen(port)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(echo(stream)); // a connection that fails ends alone
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    rlimit::increase_nofile_limit(rlimit::INFINITY)?; // up to the hard limit
    let runtime = build_runtime(arguments.multi)?;
    // A task of the runtime's own: what block_on itself is given runs on none of the workers.
    let port = arguments.port;
    runtime.block_on(async move { tokio::spawn(serve(port)).await? })
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let result = read_arguments(&words)
        .and_then(|arguments| run(&arguments).map_err(|error| error.to_string()));
    if let Err(reason) = result {
        eprintln!("tokio: {reason}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
