from .operations.router import router as operations

routers = [operations]
