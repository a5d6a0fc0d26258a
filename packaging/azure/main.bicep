// A confidential VM and a key that only this VM can release: a Premium key vault or a Managed HSM, an exportable key with a
// release policy, a SEV-SNP VM with a managed identity that has the release permission, and skragent installed by cloud-init.
//
// docs/azure.md describes the deployment. main.json is the same as an ARM template; a test compares the two.
// The project has never deployed this file, because it has no Azure subscription.

targetScope = 'resourceGroup'

@description('The Azure region of everything. It must offer confidential VMs of the size below.')
param location string = resourceGroup().location

@description('The store of the key: a Premium key vault, or a Managed HSM, whose roles and keys you create afterwards with az CLI.')
@allowed([
  'premiumVault'
  'managedHsm'
])
param keyStore string = 'premiumVault'

@description('The name of the vault or Managed HSM. It is part of a DNS name, and must be unique in Azure.')
@minLength(3)
@maxLength(24)
param keyStoreName string = 'skr-${uniqueString(resourceGroup().id)}'

@description('Object ids of the first administrators of a Managed HSM. Not used for a vault.')
param hsmAdministrators array = []

@description('For how many days a deleted vault, Managed HSM or key can be recovered. Purge protection is on, so this time cannot be shortened.')
@minValue(7)
@maxValue(90)
param retentionDays int = 90

@description('The name of the key, in the vault and for workloads.')
@minLength(1)
@maxLength(64)
param keyName string = 'db'

@description('The size of the RSA key in bits.')
@allowed([
  2048
  3072
  4096
])
param keySize int = 3072

@description('How the identity gets the permission to release the key: a role on the key, or an access policy of the vault.')
@allowed([
  'role'
  'accessPolicy'
])
param permissionModel string = 'role'

@description('The attestation provider that the release policy trusts, as https://NAME.REGION.attest.azure.net. Empty: the region\'s shared provider of Microsoft.')
param attestationAuthority string = ''

@description('Whether the release policy names this VM by its id, so that no other VM can release the key. False: for a scale set, whose VMs are created and deleted.')
param pinToVm bool = true

@description('The managed identity of the VM: its own, or an identity that other VMs can share and that exists longer than the VM.')
@allowed([
  'systemAssigned'
  'userAssigned'
])
param identityKind string = 'systemAssigned'

@description('The name of the VM.')
@minLength(1)
@maxLength(64)
param vmName string = 'skragent-vm'

@description('A size with AMD SEV-SNP: DCasv5, DCadsv5, ECasv5, ECadsv5 or a newer series of this kind.')
param vmSize string = 'Standard_DC2as_v5'

@description('The part of the disk that is encrypted with a key of this VM: DiskWithVMGuestState is the whole OS disk, VMGuestStateOnly is the state of the vTPM only.')
@allowed([
  'DiskWithVMGuestState'
  'VMGuestStateOnly'
])
param diskEncryption string = 'DiskWithVMGuestState'

@description('The image of the VM. It must be an image for confidential VMs, with the distribution that the package was built for.')
param image object = {
  publisher: 'Canonical'
  offer: 'ubuntu-24_04-lts'
  sku: 'cvm'
  version: 'latest'
}

@description('The VM\'s administrator.')
param adminUsername string = 'azureuser'

@description('The SSH public key of the administrator.')
param adminPublicKey string

@description('The user of the VM that may get the key.')
param keyUser string = adminUsername

@description('The address range that may connect by SSH, such as 203.0.113.7/32. Empty: none.')
param sshSource string = ''

@description('The https URL of the skragent package, with a SAS token if it needs one. Empty: no package is installed, and you copy it to the VM.')
@secure()
param packageUrl string = ''

@description('The SHA-256 of the package, in hex. Required with the URL.')
param packageSha256 string = ''

var inVault = keyStore == 'premiumVault'
var inHsm = keyStore == 'managedHsm'
var byRole = permissionModel == 'role'
var roleIsGranted = inVault && byRole
var policyIsGranted = inVault && !byRole
var hasOwnIdentity = identityKind == 'systemAssigned'

// The same table as in the package skragent/attestation. A region that is not in it needs attestationAuthority.
var regionCodes = loadJsonContent('attestation-regions.json')
var region = toLower(replace(location, ' ', ''))
var authority = empty(attestationAuthority) ? 'https://shared${regionCodes[region]}.${regionCodes[region]}.attest.azure.net' : attestationAuthority

// Both files are valid for West Europe without changes. The id of zeros in the first file is not the id of any VM.
// Azure Resource Manager writes a VM's id in lower case, the attestation token of an SEV-SNP VM in upper case. A policy compares letter case.
var policyFile = pinToVm ? loadTextContent('release-policy.json') : loadTextContent('release-policy-scale-set.json')
var regionPolicy = replace(policyFile, 'https://sharedweu.weu.attest.azure.net', authority)
var releasePolicy = pinToVm ? replace(regionPolicy, '00000000-0000-0000-0000-000000000000', toUpper(virtualMachine.properties.vmId)) : regionPolicy

// base64 becomes base64url, which the vault's REST API requires.
var releasePolicyData = replace(replace(replace(base64(releasePolicy), '+', '-'), '/', '_'), '=', '')

// Key Vault Crypto Service Release User: the permission to release keys only.
var releaseRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '08bbd89e-9f13-488c-ac41-acfcb10c90ab')
var principalId = hasOwnIdentity ? virtualMachine.identity.principalId : userIdentity.properties.principalId

// Azure Resource Manager knows the DNS suffix of vaults in each cloud, but not that of Managed HSMs: this is the public cloud's.
var storeUrl = inVault ? 'https://${keyStoreName}${environment().suffixes.keyvaultDns}' : 'https://${keyStoreName}.managedhsm.azure.net'

var cloudInitText = loadTextContent('cloud-init.yaml')
var cloudInitEndpoint = replace(cloudInitText, '@ATTESTATION_ENDPOINT@', empty(attestationAuthority) ? 'auto' : attestationAuthority)
var cloudInitIdentity = replace(cloudInitEndpoint, '@IDENTITY_RESOURCE_ID@', hasOwnIdentity ? '' : userIdentity.id)
var cloudInitKey = replace(replace(cloudInitIdentity, '@KEY_NAME@', keyName), '@VAULT_URL@', storeUrl)
var cloudInitUser = replace(cloudInitKey, '@KEY_USER@', keyUser)
var cloudInit = replace(replace(cloudInitUser, '@PACKAGE_URL@', packageUrl), '@PACKAGE_SHA256@', packageSha256)

resource keyVault 'Microsoft.KeyVault/vaults@2026-02-01' = if (inVault) {
  name: keyStoreName
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'premium' // only Premium has keys in HSMs, and only these keys can be released
    }
    enableRbacAuthorization: byRole // always set: the default changed with API version 2026-02-01
    accessPolicies: [] // each deployment sets the whole list; the grants below are added to it
    enableSoftDelete: true
    softDeleteRetentionInDays: retentionDays
    enablePurgeProtection: true
  }
}

// Created after the VM, because the policy has the VM's id. Created once: a deployment does not change an existing key or its
// policy. A VM that is deleted and created again has a new id: set the policy again (docs/azure.md, "A VM that was created again").
resource vaultKey 'Microsoft.KeyVault/vaults/keys@2026-02-01' = if (inVault) {
  parent: keyVault
  name: keyName
  properties: {
    kty: 'RSA-HSM'
    keySize: keySize
    keyOps: [ // operations inside of the vault; release needs none of them
      'encrypt'
      'decrypt'
    ]
    attributes: {
      enabled: true
      exportable: true // cannot be changed later
    }
    release_policy: {
      contentType: 'application/json; charset=utf-8'
      data: releasePolicyData
    }
  }
}

// On this key only. A VM that is deleted and created again has a new system-assigned identity, and Azure does not change an
// assignment: delete the old one first (az role assignment delete), or use a user-assigned identity.
resource roleAssignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (roleIsGranted) {
  scope: vaultKey
  name: guid(vaultKey.id, vmName, identityKind, releaseRole)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: releaseRole
  }
}

// On all keys of the vault: an access policy cannot name a single key.
resource vaultPolicy 'Microsoft.KeyVault/vaults/accessPolicies@2026-02-01' = if (policyIsGranted) {
  parent: keyVault
  name: 'add'
  properties: {
    accessPolicies: [
      {
        tenantId: subscription().tenantId
        objectId: principalId
        permissions: {
          keys: [
            'release'
          ]
        }
      }
    ]
  }
}

// The HSM must be activated. Azure Resource Manager does not create its roles and keys: docs/azure.md has the az commands.
resource hsm 'Microsoft.KeyVault/managedHSMs@2026-02-01' = if (inHsm) {
  name: keyStoreName
  location: location
  sku: {
    family: 'B'
    name: 'Standard_B1'
  }
  properties: {
    tenantId: subscription().tenantId
    initialAdminObjectIds: hsmAdministrators
    enableSoftDelete: true
    softDeleteRetentionInDays: retentionDays
    enablePurgeProtection: true
  }
}

resource userIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = if (!hasOwnIdentity) {
  name: '${vmName}-identity'
  location: location
}

// From the Internet, only connections from sshSource are admitted. The other rules are Azure's defaults.
resource securityGroup 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${vmName}-nsg'
  location: location
  properties: {
    securityRules: empty(sshSource) ? [] : [
      {
        name: 'ssh'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: sshSource
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '22'
        }
      }
    ]
  }
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: '${vmName}-vnet'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.0.0.0/24'
      ]
    }
    subnets: [
      {
        name: 'default'
        properties: {
          addressPrefix: '10.0.0.0/24'
          defaultOutboundAccess: false
          networkSecurityGroup: {
            id: securityGroup.id
          }
        }
      }
    ]
  }
}

// The VM's outgoing connections to Azure Attestation, the vault and the package use this address. Its subnet has no other.
resource publicAddress 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: '${vmName}-ip'
  location: location
  sku: {
    name: 'Standard' // closed for incoming connections without a rule
  }
  properties: {
    publicIPAllocationMethod: 'Static'
  }
}

resource networkInterface 'Microsoft.Network/networkInterfaces@2024-05-01' = {
  name: '${vmName}-nic'
  location: location
  properties: {
    ipConfigurations: [
      {
        name: 'primary'
        properties: {
          privateIPAllocationMethod: 'Dynamic'
          subnet: {
            id: '${network.id}/subnets/default'
          }
          publicIPAddress: {
            id: publicAddress.id
          }
        }
      }
    ]
  }
}

resource virtualMachine 'Microsoft.Compute/virtualMachines@2024-07-01' = {
  name: vmName
  location: location
  identity: hasOwnIdentity ? {
    type: 'SystemAssigned'
  } : {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${userIdentity.id}': {}
    }
  }
  properties: {
    hardwareProfile: {
      vmSize: vmSize
    }
    securityProfile: {
      securityType: 'ConfidentialVM'
      uefiSettings: {
        secureBootEnabled: true // shared attestation providers refuse VMs without secure boot
        vTpmEnabled: true
      }
    }
    storageProfile: {
      imageReference: image
      osDisk: {
        createOption: 'FromImage'
        deleteOption: 'Delete'
        managedDisk: {
          storageAccountType: 'Premium_LRS'
          securityProfile: {
            securityEncryptionType: diskEncryption
          }
        }
      }
    }
    osProfile: {
      computerName: vmName
      adminUsername: adminUsername
      customData: base64(cloudInit)
      linuxConfiguration: {
        disablePasswordAuthentication: true
        ssh: {
          publicKeys: [
            {
              path: '/home/${adminUsername}/.ssh/authorized_keys'
              keyData: adminPublicKey
            }
          ]
        }
      }
    }
    networkProfile: {
      networkInterfaces: [
        {
          id: networkInterface.id
        }
      ]
    }
    diagnosticsProfile: {
      bootDiagnostics: {
        enabled: true // the serial console needs it
      }
    }
  }
}

@description('The name of the vault or Managed HSM, for az CLI.')
output keyStoreName string = keyStoreName

@description('The URL of the vault or Managed HSM: `vault` in skragent.toml.')
output keyStoreUrl string = storeUrl

@description('The object id of the VM\'s identity, for roles and policies.')
output principalId string = principalId

@description('The release policy with the authority of this region and, with pinToVm, the id of this VM, for keys that you create with az CLI.')
output releasePolicy string = releasePolicy
