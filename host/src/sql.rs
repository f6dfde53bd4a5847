//! SQL that somebody else wrote, run on an instance as its superuser, within limits of rows, bytes and time.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{CancelToken, Client, Column as SqlColumn, NoTls, Row};
use tokio_util::task::TaskTracker;

use crate::failure::{Failure, FailureCode};
use crate::instance::Found;
use crate::policy::FieldError;
use crate::probe;

/// The most rows that a statement may return.
pub const ROWS_MAX: usize = 10_000;
/// The most bytes that a server may send in answer to a statement or a script, its protocol included.
pub const BYTES_MAX: usize = 4 << 20;
/// How long a statement or a script may take, connecting included.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How often a server may be asked something on one connection. A client asks about each type it doesn't know, and about
/// what that is made of, one inside the other: a type that is made of itself would have it go on until its stack ends.
const QUESTIONS_MAX: usize = 256;
/// How long it may take to have a server end what nobody waits for any more.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A value of SQL, as a parameter or in a result.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// `boolean`.
    Boolean(bool),
    /// `smallint`, `integer`, `bigint`, `oid`.
    Integer(i64),
    /// `real`, `double precision`.
    Float(f64),
    /// `text`, `varchar`, `char`, `name`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
    /// `json`, `jsonb`, as text.
    Json(String),
    /// Anything else, as PostgreSQL writes it.
    Other(String),
}

impl Value {
    /// What it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        let text = match self {
            Self::Text(text) | Self::Json(text) | Self::Other(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Null | Self::Boolean(_) | Self::Integer(_) | Self::Float(_) => 0,
        };
        text + size_of::<Self>()
    }
}

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name; not always there only once.
    pub name: String,
    /// The name of its type: `int4`, `_text`.
    pub type_name: String,
}

/// What a statement returned.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its columns; empty for a statement that returns no rows.
    pub columns: Vec<Column>,
    /// Its rows, each with a value for each column.
    pub rows: Vec<Vec<Value>>,
    /// How many rows were read or changed; 0 for a statement that counts none.
    pub affected: u64,
}

/// Why SQL was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The server can't be reached.
    #[error("the instance can't be reached: {0}")]
    Unreachable(String),
    /// The server refuses it.
    #[error("PostgreSQL refuses it: {0}")]
    Refused(String),
    /// There are too many or too few parameters.
    #[error("the statement has {expected} parameters, {given} were given")]
    Parameters {
        /// How many the statement has.
        expected: usize,
        /// How many there are.
        given: usize,
    },
    /// A column can't be shown.
    #[error("the column {name:?} has the type {type_name:?}, which can't be shown in this kind of statement")]
    Unshowable {
        /// The column's name.
        name: String,
        /// Its type's name.
        type_name: String,
    },
    /// It returns too many rows.
    #[error("it returns more than {ROWS_MAX} rows")]
    Rows,
    /// The server sends too much.
    #[error("it returns more than {BYTES_MAX} bytes")]
    Bytes,
    /// Its parameters or columns have types with too much to them, or one that is made of itself.
    #[error("the types of its parameters and columns take more than {QUESTIONS_MAX} questions to know")]
    Types,
    /// It takes too long.
    #[error("it was not done within {} s", DEADLINE.as_secs())]
    TimedOut,
    /// The server ended the connection, or said something that makes no sense.
    #[error("the connection to the instance ended: {0}")]
    Lost(String),
}

impl From<&SqlError> for Failure {
    fn from(error: &SqlError) -> Self {
        let invalid = |field: &str| {
            let message = error.to_string();
            let field = field.to_owned();
            Self::invalid(vec![FieldError { field, message }])
        };
        let (code, advice) = match error {
            SqlError::Parameters { .. } => return invalid("parameters"),
            SqlError::Unshowable { .. } => return invalid("statement"),
            SqlError::Types => (
                FailureCode::Exhausted,
                "Use fewer types of the database's own at once: cast columns and parameters to text.",
            ),
            SqlError::Unreachable(_) => (FailureCode::Unavailable, "A health check says how the instance is."),
            SqlError::Refused(_) => (FailureCode::Failed, "Correct the SQL and try again."),
            SqlError::Rows | SqlError::Bytes => (
                FailureCode::Exhausted,
                "Ask for less, with LIMIT or fewer columns; what the statement changed may have taken effect.",
            ),
            SqlError::TimedOut => (
                FailureCode::TimedOut,
                "Do less at once; what the statement changed may have taken effect.",
            ),
            SqlError::Lost(_) => (
                FailureCode::Failed,
                "A health check says how the instance is; what the statement changed may have taken effect.",
            ),
        };
        Self::new(code, error.to_string(), advice)
    }
}

/// Runs one statement. The connection is not kept.
///
/// The future may be dropped at any point: the server is told, on `tracker`, to end what it is at.
///
/// # Errors
/// If the statement fails or passes a limit.
pub async fn query(
    found: &Found,
    statement: &str,
    parameters: &[Value],
    tracker: &TaskTracker,
) -> Result<Table, SqlError> {
    session(found, tracker, async |client| {
        let prepared = client.prepare(statement).await?;
        let (expected, given) = (prepared.params().len(), parameters.len());
        if expected != given {
            return Err(SqlError::Parameters { expected, given }.into());
        }
        let shapes: Vec<Shape> = prepared
            .columns()
            .iter()
            .map(|column| Shape::of(column.type_()))
            .collect();
        let columns = prepared.columns().iter().map(Column::from).collect();
        let prepared = match shapes.iter().position(|shape| *shape == Shape::Other) {
            None => prepared,
            Some(index) => match client.prepare(&as_text(statement, &shapes)).await {
                Ok(prepared) => prepared,
                Err(error) if error.as_db_error().is_some() => {
                    return Err(unshowable(&prepared.columns()[index]).into());
                }
                Err(error) => return Err(error.into()),
            },
        };
        let mut answer = pin!(client.query_raw(&prepared, parameters).await?);
        let mut rows = Vec::new();
        while let Some(row) = answer.try_next().await? {
            if rows.len() == ROWS_MAX {
                return Err(SqlError::Rows.into());
            }
            rows.push(values(&row, &shapes)?);
        }
        let affected = answer.rows_affected().unwrap_or_default();
        Ok(Table {
            columns,
            rows,
            affected,
        })
    })
    .await
}

/// Runs a script of any number of statements, as one transaction unless it says otherwise, and drops what they return.
/// The connection is not kept.
///
/// The future may be dropped at any point: the server is told, on `tracker`, to end what it is at.
///
/// # Errors
/// If a statement fails or passes a limit.
pub async fn execute(found: &Found, script: &str, tracker: &TaskTracker) -> Result<(), SqlError> {
    session(found, tracker, async |client| Ok(client.batch_execute(script).await?)).await
}

/// What ends the work on a connection.
enum End {
    Sql(SqlError),
    Client(tokio_postgres::Error),
}

impl From<SqlError> for End {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<tokio_postgres::Error> for End {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Client(error)
    }
}

/// Connects, works, and closes the connection, all of it within the deadline.
async fn session<T>(
    found: &Found,
    tracker: &TaskTracker,
    work: impl AsyncFnOnce(&Client) -> Result<T, End>,
) -> Result<T, SqlError> {
    let unreachable = |error: &dyn StdError| SqlError::Unreachable(probe::chain(error));
    let excess = Arc::new(OnceLock::new());
    let connected = async {
        let instance = &found.instance;
        let stream = TcpStream::connect((instance.host.as_str(), instance.port.get()))
            .await
            .map_err(|error| unreachable(&error))?;
        let address = stream.peer_addr().map_err(|error| unreachable(&error))?;
        let capped = Capped {
            stream,
            bytes_left: BYTES_MAX,
            questions_left: QUESTIONS_MAX,
            is_asking: false,
            excess: Arc::clone(&excess),
        };
        let (client, connection) = probe::config(found)
            // The server's own limit, for what goes on when nobody can tell it to end.
            .options(format!("-c statement_timeout={}", DEADLINE.as_millis()))
            .connect_raw(capped, NoTls)
            .await
            .map_err(|error| match error.as_db_error() {
                Some(answer) => SqlError::Unreachable(probe::refusal(answer)),
                None => unreachable(&error),
            })?;
        let mut unfinished = Unfinished {
            token: client.cancel_token(),
            address,
            tracker: tracker.clone(),
            armed: true,
        };
        let outcome = tokio::select! {
            biased;
            outcome = work(&client) => outcome,
            end = connection => Err(match end {
                Ok(()) => SqlError::Lost("the server closed it".into()).into(),
                Err(error) => error.into(),
            }),
        };
        match excess.get() {
            Some(Excess::Bytes) => return Err(SqlError::Bytes),
            Some(Excess::Questions) => return Err(SqlError::Types),
            None => {}
        }
        let outcome = outcome.map_err(|end| match end {
            End::Sql(error) => error,
            End::Client(error) => match error.as_db_error() {
                Some(answer) => SqlError::Refused(probe::refusal(answer)),
                None => SqlError::Lost(probe::chain(&error)),
            },
        });
        unfinished.armed = matches!(outcome, Err(SqlError::Rows | SqlError::Lost(_)));
        outcome
    };
    timeout(DEADLINE, connected).await.unwrap_or(Err(SqlError::TimedOut))
}

/// Has the server end what it is at when it goes out of scope. A server doesn't notice by itself that its client has
/// gone until it has something to say.
struct Unfinished {
    token: CancelToken,
    address: SocketAddr,
    tracker: TaskTracker,
    armed: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.armed {
            return;
        }
        let (token, address) = (self.token.clone(), self.address);
        let cancel = async move {
            let stream = TcpStream::connect(address).await?;
            token.cancel_query_raw(stream, NoTls).await.map_err(io::Error::other)
        };
        self.tracker.spawn_on(
            async move {
                if !matches!(timeout(CANCEL_TIMEOUT, cancel).await, Ok(Ok(()))) {
                    tracing::debug!(%address, "a statement could not be cancelled: its own time limit ends it");
                }
            },
            &runtime,
        );
    }
}

/// What there was too much of on a connection.
#[derive(Debug, Clone, Copy)]
enum Excess {
    Bytes,
    Questions,
}

/// A connection that ends when the server has sent too much, a single row may have a gigabyte, or was asked too often.
struct Capped {
    stream: TcpStream,
    bytes_left: usize,
    questions_left: usize,
    /// Whether something was written since the last flush.
    is_asking: bool,
    excess: Arc<OnceLock<Excess>>,
}

impl Capped {
    fn end<T>(&self, excess: Excess) -> Poll<io::Result<T>> {
        // The first one counts.
        let _ = self.excess.set(excess);
        Poll::Ready(Err(io::Error::other("a limit on the connection is passed")))
    }
}

impl AsyncRead for Capped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(left) = self.bytes_left.checked_sub(buffer.filled().len() - before) {
            self.bytes_left = left;
            return read;
        }
        self.end(Excess::Bytes)
    }
}

impl AsyncWrite for Capped {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asking = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A client flushes when it has asked all that it has to ask and waits for the answer.
        if std::mem::take(&mut self.is_asking) {
            let Some(left) = self.questions_left.checked_sub(1) else {
                return self.end(Excess::Questions);
            };
            self.questions_left = left;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How a column's values come over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Boolean,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Text,
    Bytes,
    Json,
    Other,
}

impl Shape {
    fn of(of: &Type) -> Self {
        match *of {
            Type::BOOL => Self::Boolean,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::OID => Self::Oid,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => Self::Text,
            Type::BYTEA => Self::Bytes,
            Type::JSON | Type::JSONB => Self::Json,
            _ => Self::Other,
        }
    }
}

/// The same statement with all columns of other types as text: the server alone knows how to write them.
fn as_text(statement: &str, shapes: &[Shape]) -> String {
    let statement = statement.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let (mut names, mut columns) = (String::new(), String::new());
    for (index, shape) in shapes.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let cast = if *shape == Shape::Other { "::text" } else { "" };
        // Writing to a String can't fail.
        let _ = write!(names, "{comma}c{index}");
        let _ = write!(columns, "{comma}c{index}{cast}");
    }
    // The line breaks are for a comment at the statement's end.
    format!("WITH statement ({names}) AS (\n{statement}\n) SELECT {columns} FROM statement")
}

fn unshowable(column: &SqlColumn) -> SqlError {
    SqlError::Unshowable {
        name: column.name().to_owned(),
        type_name: column.type_().name().to_owned(),
    }
}

impl From<&SqlColumn> for Column {
    fn from(column: &SqlColumn) -> Self {
        Self {
            name: column.name().to_owned(),
            type_name: column.type_().name().to_owned(),
        }
    }
}

fn values(row: &Row, shapes: &[Shape]) -> Result<Vec<Value>, tokio_postgres::Error> {
    shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| {
            let value = match shape {
                Shape::Boolean => row.try_get::<_, Option<bool>>(index)?.map(Value::Boolean),
                Shape::Int2 => row.try_get::<_, Option<i16>>(index)?.map(|n| Value::Integer(n.into())),
                Shape::Int4 => row.try_get::<_, Option<i32>>(index)?.map(|n| Value::Integer(n.into())),
                Shape::Int8 => row.try_get::<_, Option<i64>>(index)?.map(Value::Integer),
                Shape::Oid => row.try_get::<_, Option<u32>>(index)?.map(|n| Value::Integer(n.into())),
                Shape::Float4 => row.try_get::<_, Option<f32>>(index)?.map(|n| Value::Float(widened(n))),
                Shape::Float8 => row.try_get::<_, Option<f64>>(index)?.map(Value::Float),
                Shape::Text => row.try_get::<_, Option<String>>(index)?.map(Value::Text),
                Shape::Bytes => row.try_get::<_, Option<Vec<u8>>>(index)?.map(Value::Bytes),
                Shape::Json => row
                    .try_get::<_, Option<Json>>(index)?
                    .map(|Json(text)| Value::Json(text)),
                Shape::Other => row.try_get::<_, Option<String>>(index)?.map(Value::Other),
            };
            Ok(value.unwrap_or(Value::Null))
        })
        .collect()
}

/// The number that is written the same: 0.1 stays 0.1.
fn widened(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// JSON as text; `jsonb` has its version before it.
struct Json(String);

impl<'a> FromSql<'a> for Json {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        let text = match raw {
            [1, text @ ..] if *of == Type::JSONB => text,
            text => text,
        };
        Ok(Self(std::str::from_utf8(text)?.to_owned()))
    }

    fn accepts(of: &Type) -> bool {
        Shape::of(of) == Shape::Json
    }
}

/// As text, whatever type the statement wants: the server reads it as it reads a literal.
impl ToSql for Value {
    fn to_sql(&self, _of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Boolean(value) => write!(out, "{value}")?,
            Self::Integer(value) => write!(out, "{value}")?,
            Self::Float(value) => write!(out, "{value}")?,
            Self::Text(text) | Self::Json(text) | Self::Other(text) => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) => {
                out.extend_from_slice(b"\\x");
                bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(_of: &Type) -> bool {
        true
    }

    fn encode_format(&self, _of: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}
