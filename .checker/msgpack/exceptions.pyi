"""msgpack.exceptions: the same names."""

from msgpack import BufferFull as BufferFull, ExtraData as ExtraData, FormatError as FormatError
from msgpack import OutOfData as OutOfData, StackError as StackError, UnpackException as UnpackException
