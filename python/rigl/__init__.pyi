from . import arrays as arrays
from . import command as command
from .convert import from_dense as from_dense
from .convert import sparsify as sparsify
from .convert import to_dense as to_dense
from .models import load_model as load_model
from .models import save_model as save_model
from .nn import SparseConv2d as SparseConv2d
from .nn import SparseLinear as SparseLinear
from .schedulers import GMP as GMP
from .schedulers import SET as SET
from .schedulers import RigL as RigL
from .schedulers import Static as Static

__version__: str
